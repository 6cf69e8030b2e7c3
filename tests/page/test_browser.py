"""The page in a real browser: it draws, follows its controls, says what is wrong, and everybody can use it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from weightwell_engine.dtypes import DTYPES
from weightwell_service.app import create_app
from weightwell_service.links import pack
from weightwell_service.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE = 30_000  # milliseconds

# Small enough to be measured at once.
SIGNAL = (
    "#signal?run=scheme%3Dkaiming_normal%26width%3D32%26depth%3D6&run=scheme%3Dxavier_normal%26width%3D32%26depth%3D6"
)
VIEWS = {"tensor": "#tensor?shape=24,24&scheme=orthogonal&seed=1", "signal": SIGNAL, "manifest": "#manifest"}

Open = Callable[[str], "Page"]

Serve = Callable[[FastAPI], AbstractContextManager[str]]

WIDTH = 1280


class Tab:
    """A tab of the browser. To open one takes longer than most tests, so several tests use the same one, in turn."""

    def __init__(self, browser: "Browser", server: str):
        self.page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if "Content Security" in line.text else None)
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda asked: None if asked.url.startswith(server) else self.errors.append(asked.url))
        self._server = server

    def open(self, place: str) -> "Page":
        """Open an address after ``/``, as a new document."""
        self.page.goto("about:blank")  # or else only the part after # would change
        self.errors.clear()
        self.page.goto(f"{self._server}/{place}")
        return self.page


@pytest.fixture(scope="module")
def tab(browser: "Browser", server: str) -> Tab:
    """The tab of most tests."""
    return Tab(browser, server)


@pytest.fixture
def show(tab: Tab) -> Iterator[Open]:
    """How to open the page, in one tab, at an address after ``/``. Errors of the page fail a test."""
    tab.errors.clear()
    yield tab.open
    assert tab.errors == []


@pytest.fixture(scope="module")
def places(browser: "Browser", server: str) -> Iterator[Callable[[str], "Page"]]:
    """The page at an address after ``/``, drawn, in a tab of its own that tests only look at."""
    tabs: dict[str, Tab] = {}

    def at(place: str) -> "Page":
        if place not in tabs:
            tabs[place] = Tab(browser, server)
            page = tabs[place].open(place)
            if "shape=x" in place:
                page.locator("#tensor [role=alert]").wait_for()
            elif place.startswith("#"):
                drawn(page)
                page.locator("section:not([hidden]) details").evaluate_all(
                    "all => all.forEach((each) => (each.open = true))"
                )
        page = tabs[place].page
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": WIDTH, "height": 900})
        return page

    yield at
    for each in tabs.values():
        each.page.close()
        assert each.errors == []


def drawn(page: "Page") -> None:
    """Wait until the view has drawn what was asked for."""
    page.wait_for_selector("section:not([hidden]):not(.busy) .drawn:not([hidden]) pre")


def law(page: "Page") -> str:
    return str(page.locator("#tensor .law").inner_text())


def test_the_first_view_is_small_and_asks_for_little(browser: "Browser", server: str) -> None:
    page = browser.new_page()
    nbytes: dict[str, int] = {}
    page.on("response", lambda answer: nbytes.update({answer.url: int(answer.headers["content-length"])}))
    page.goto(server)
    drawn(page)
    assert sum(nbytes.values()) < 200_000
    asked = [httpx.URL(url).path for url in nbytes]
    computed = [path for path in asked if path != "/" and not path.startswith("/page/")]
    assert sorted(computed) == ["/gain", "/init", "/inspect", "/schemes"]  # each of which takes milliseconds
    assert not any(path.startswith("/page/signal") or path == "/page/manifest.js" for path in asked)
    assert page.locator("[data-plot=histogram] canvas").count() == 1
    assert page.locator("[data-plot=singular] canvas").count() == 1
    assert page.locator("canvas.heat").evaluate("canvas => [canvas.width, canvas.height]") == [64, 96]
    page.close()


def test_the_view_follows_its_controls_and_its_link_makes_it_again(show: Open) -> None:
    page = show("")
    drawn(page)
    assert law(page).startswith("Normal with mean 0 and std 0.177")
    page.select_option("[name=scheme]", "sparse")
    page.locator("#tensor [role=alert]").wait_for()  # sparsity is required
    page.fill("#tensor [name=sparsity]", "0.25")
    page.fill("#tensor [name=shape]", "40,40")
    page.locator("#tensor .law", has_text="10 of the 40 elements").wait_for()
    drawn(page)
    assert page.locator("[data-plot=eigen] canvas").is_visible()
    link = page.evaluate("location.hash")
    assert link == "#tensor?shape=40,40&scheme=sparse&seed=42&dtype=float32&sparsity=0.25"
    shown = law(page)
    drawn(show(link))
    assert law(page) == shown


def test_the_bytes_that_are_drawn_are_those_of_the_file(show: Open, http: httpx.Client) -> None:
    page = show("guide/local")
    for dtype in [name for name, each in DTYPES.items() if each.packed == 1]:
        query = f"shape=32,32&dtype={dtype}&scheme="
        query += "normal" if DTYPES[dtype].is_real else "ones"
        read = page.evaluate(
            "async (query) => { const { parse } = await import('/page/safetensors.js');"
            "const file = await (await fetch(`/init?${query}`)).arrayBuffer();"
            "const { values } = parse(file); return [Math.min(...values), Math.max(...values), values.length]; }",
            query,
        )
        answer = http.get(f"/inspect?{query}").json()
        assert read == [answer["smallest"], answer["largest"], 1024]


def test_a_large_tensor_is_not_downloaded(show: Open) -> None:
    page = show("#tensor?shape=700,700&scheme=uniform")
    drawn(page)
    assert "was not read here" in page.locator("#tensor .source").inner_text()
    assert "computed up to" in page.locator("[data-plot=singular]").inner_text()


def test_a_bad_shape_is_an_error_at_its_field(show: Open) -> None:
    page = show("#tensor?shape=8,8&scheme=normal")
    drawn(page)
    page.fill("#tensor [name=shape]", "12,x")
    page.locator("#tensor [role=alert]").wait_for()
    assert "shape must be" in page.locator("#tensor [role=alert]").inner_text()
    assert page.locator("#tensor [name=shape]").get_attribute("aria-invalid") == "true"
    page.fill("#tensor [name=shape]", "12,8")
    drawn(page)
    assert page.locator("#tensor [role=alert]").is_hidden()
    assert page.locator("#tensor [name=shape]").get_attribute("aria-invalid") is None


def test_several_signals_are_shown_over_one_another(show: Open) -> None:
    page = show(SIGNAL)
    drawn(page)
    for plot in ("forward", "backward", "correlation"):
        assert page.locator(f"[data-plot={plot}] .legend li").count() == 2
    page.click("text=Add another")
    page.select_option("#signal [name=activation]", "tanh")
    page.locator(".verdicts tbody tr", has_text="tanh").wait_for()
    assert page.evaluate("location.hash").count("run=") == 3
    assert "tanh" in page.locator(".verdicts tbody tr").nth(2).inner_text()


def test_a_manifest_has_its_plan_as_a_table_and_a_link(show: Open) -> None:
    page = show("#manifest")
    drawn(page)
    page.fill("textarea", '{"tensors": {"a": {"shape": [3, 5], "scheme": "he_normal"}, "b": {"alias": "a"}}}')
    page.click("#manifest button[type=submit]")
    page.locator(".plan tbody tr", has_text="the same as a").wait_for()
    assert "normal with mean 0 and std 0.632" in page.locator(".plan tbody tr").first.inner_text()
    shown = page.locator(".plan").inner_text()
    drawn(show(page.evaluate("location.hash")))
    assert page.locator(".plan").inner_text() == shown
    page.fill("textarea", '{"tensors": {')
    page.click("#manifest button[type=submit]")
    page.locator("#manifest [role=alert]").wait_for()
    assert "not JSON" in page.locator("#manifest [role=alert]").inner_text()


@contextmanager
def clipboard(page: "Page") -> Iterator[Callable[[], str]]:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield lambda: str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize("view", VIEWS)
def test_the_code_that_is_copied_runs(show: Open, view: str, tmp_path: Path) -> None:
    page = show(VIEWS[view])
    drawn(page)
    section = page.locator(f"#{view}")
    programs = {"curl": ["bash", "-e"], "Python": [sys.executable, "-"], "JavaScript": ["node", "--input-type=module"]}
    with clipboard(page) as copied:
        for language, program in programs.items():
            if not shutil.which(program[0]) or (language == "curl" and not shutil.which("curl")):
                continue
            section.get_by_role("tab", name=language).click()
            section.get_by_role("button", name="Copy code").click()
            section.get_by_role("button", name="Copied").first.wait_for()
            code = copied()
            assert code == section.locator("pre").inner_text()
            done = subprocess.run(
                program, input=code, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stderr}"
            assert language == "curl" or done.stdout
        section.get_by_role("button", name="Copy link").click()
        section.get_by_role("button", name="Copied").first.wait_for()
        assert copied() == page.url
    made = {"tensor": {"weight.safetensors", "statistics.json"}, "signal": {"signal-1.json", "signal-2.json"}}
    assert {path.name for path in tmp_path.iterdir()} == made.get(view, {"model.safetensors"})
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())


PLACES = [*VIEWS.values(), "#tensor?shape=x&scheme=normal", "guide/local"]


@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing(places: Callable[[str], "Page"], axe: str, place: str) -> None:
    page = places(place)
    page.evaluate(axe)
    for colours, rules in (("light", None), ("dark", ["color-contrast"])):  # nothing else depends on the colours
        page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
        found = page.evaluate("rules => axe.run(document, rules ? { runOnly: rules } : {})", rules)
        assert found["passes"]
        told = [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found["violations"]]
        assert told == []


def test_dark_is_dark(places: Callable[[str], "Page"]) -> None:
    page = places("guide/local")

    def back(colours: Any) -> list[int]:
        page.emulate_media(color_scheme=colours)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return [int(part) for part in re.findall(r"\d+", colour)]

    assert min(back("light")) > 240
    assert max(back("dark")) < 40


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_wider_than_a_telephone(places: Callable[[str], "Page"], place: str) -> None:
    page = places(place)
    page.set_viewport_size({"width": 360, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize(
    ("view", "plots"),
    [("tensor", {"histogram", "heat", "singular", "eigen"}), ("signal", {"forward", "backward", "correlation"})],
)
def test_every_plot_has_a_table_of_its_points(places: Callable[[str], "Page"], view: str, plots: set[str]) -> None:
    page = places(VIEWS[view])
    places_of = page.locator(f"#{view} [data-plot]")
    assert set(places_of.evaluate_all("all => all.map((each) => each.dataset.plot)")) == plots
    rows = {name: page.locator(f"#{view} [data-plot={name}] .points tbody tr").all_inner_texts() for name in plots}
    counts = {name: len(found) for name, found in rows.items()}
    if view == "signal":
        assert counts == dict.fromkeys(plots, 7)  # the input and six layers
        assert all(len(row.split()) == 5 for row in rows["forward"][1:])  # the layer, and theory for two stacks
    else:
        assert (counts["heat"], counts["singular"], counts["eigen"]) == (24, 24, 24)
        assert sum(int(row.split()[2]) for row in rows["histogram"]) == 24 * 24
        assert all(float(row.split()[1]) == pytest.approx(1.0, abs=1e-3) for row in rows["singular"])


# Hostile input -------------------------------------------------------------------------------------------------------

ATTACK = """<img src=x onerror="alert(1)"><script>alert(2)</script>"'`${alert(3)}`\"); alert(4)//"""
HOSTILE = [
    f"#tensor?shape=3&scheme={quote(ATTACK)}",
    f"#tensor?shape={quote(ATTACK)}&scheme=normal&dtype={quote(ATTACK)}&seed={quote(ATTACK)}",
    f"#tensor?shape=3&scheme=normal&name={quote(ATTACK)}&__proto__={quote(ATTACK)}",
    f"#signal?run={quote(quote(ATTACK))}&run={quote(f'activation={quote(ATTACK)}&depth=2&width=8')}",
    f"#signal?run={quote(f'{quote(ATTACK)}=1&depth=2&width=8')}",
    f"#manifest?manifest={quote(ATTACK)}",
    "#manifest?manifest=" + pack(json.dumps({"tensors": {ATTACK: {"shape": [2], "scheme": "ones"}}})),
    "#manifest?manifest=" + pack(json.dumps({"tensors": {"a": {"shape": [2], "scheme": ATTACK, ATTACK: 1}}})),
    "#constructor?x",
    "#__proto__",
    f"#{quote(ATTACK)}",
    "#javascript:alert(5)",
]


def test_no_text_of_an_address_becomes_html_or_a_script(show: Open) -> None:
    for place in HOSTILE:
        page = show(place)
        page.wait_for_load_state("networkidle")
        if place.startswith(("#tensor", "#signal", "#manifest")):
            page.locator("section:not([hidden]) :is(.drawn pre, [role=alert]):visible").first.wait_for()
        strange = "img, iframe, object, script:not([src]), [onerror], a[href^='javascript:']"
        assert page.locator(strange).count() == 0, place
    page = show(HOSTILE[6])
    drawn(page)
    assert ATTACK in page.locator(".plan tbody th").inner_text()  # as a text, whole


def test_the_policy_stops_scripts_that_come_into_the_page(show: Open) -> None:
    page = show("guide/local")
    assert page.evaluate(
        """() => {
            const refused = [];
            const attempt = (name, action) => { try { action(); } catch { refused.push(name); } };
            attempt("html", () => { document.body.innerHTML = "<img src=x onerror='window.hit = 1'>"; });
            const script = document.createElement("script");
            attempt("script", () => { script.textContent = "window.hit = 1"; });
            attempt("source", () => { script.src = "data:text/javascript,window.hit=1"; });
            document.body.append(script);
            return [refused.join(" "), window.hit];
        }"""
    ) == ["html script source", None]
    page.goto("about:blank")


# Tokens --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that needs the token ``right``."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(f'[[tokens]]\nname = "right"\nsha256 = "{sha256(b"right").hexdigest()}"\n')
    with serve(create_app(Settings(threads=2, tokens_file=file))) as url:
        yield url


def test_the_page_asks_for_a_token_and_shows_it_nowhere(browser: "Browser", guarded: str, tmp_path: Path) -> None:
    tab = Tab(browser, guarded)
    page, sent = tab.page, []
    page.on("request", lambda asked: sent.append((asked.url, asked.headers.get("authorization"))))
    tab.open("#tensor?shape=4,4&scheme=normal")
    page.locator("#token input").wait_for()
    assert "needs a token" in page.locator("#tensor [role=alert]").inner_text()
    for token, wanted in (("wrong", "does not know the token"), ("right", "")):
        page.fill("#token input", token)
        page.keyboard.press("Enter")
        if wanted:
            page.locator("#tensor [role=alert]", has_text=wanted).wait_for()
    drawn(page)
    assert page.locator("#token").is_hidden()
    for language in ("Python", "JavaScript", "curl"):
        page.locator("#tensor").get_by_role("tab", name=language).click()
        code = page.locator("#tensor pre").inner_text()
        assert ("process.env.WEIGHTWELL_TOKEN" if language == "JavaScript" else "$WEIGHTWELL_TOKEN") in code
    done = subprocess.run(
        ["bash", "-e"],
        input=code,
        cwd=tmp_path,
        env={**os.environ, "WEIGHTWELL_TOKEN": "right", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("right" in page.content(), "right" in page.url) == (False, False)
    assert all("right" not in url for url, _ in sent)
    assert {value for url, value in sent if "/schemes" in url} == {None, "Bearer wrong", "Bearer right"}
    page.reload()  # the tab still has it
    drawn(page)
    page.click("#forget")
    page.locator("#token input").wait_for()
    tab.open("#token=right")
    drawn(page)
    assert "right" not in page.url
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert tab.errors == []
    page.close()


def test_a_browser_without_storage_sends_a_token_too(browser: "Browser", guarded: str) -> None:
    tab = Tab(browser, guarded)
    tab.page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError'); } })"
    )
    page = tab.open("#token=%E2%82%AC")  # no header can contain it
    page.locator("#tensor [role=alert]", has_text="needs a token").wait_for()
    page.fill("#token input", "right")
    page.keyboard.press("Enter")
    drawn(page)
    assert tab.errors == []
    page.close()


def test_the_keyboard_reaches_everything(show: Open) -> None:
    page = show("#tensor?shape=8,8&scheme=normal")
    drawn(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.locator("#tensor").is_visible()
    page.locator("#tensor [role=tab]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "Python"
    assert "import weightwell" in page.locator("#tensor pre").inner_text()


def test_swagger_tries_out_every_route_with_what_it_fills_in(show: Open, server: str, *, exhaustive: bool) -> None:
    page = show("docs")
    page.wait_for_selector(".opblock")
    names = page.eval_on_selector_all(".opblock", "all => all.map((each) => each.id)")
    assert len(names) >= 14
    if not exhaustive:  # Swagger takes seconds to show a route
        names = [name for name in names if name.endswith(("-init", "-plan"))]
        assert len(names) == 2
    for name in names:
        box = page.locator(f"#{name}")
        summary = box.locator(".opblock-summary").first
        summary.click()
        box.locator(".try-out__btn").click()
        box.locator(".execute").click()
        status = box.locator(".live-responses-table .response-col_status").nth(1)
        status.wait_for()
        assert status.inner_text().split()[0] == "200", name
        assert f"'{server}/" in box.locator(".curl").first.inner_text()
        summary.click()  # closed again, as long answers are slow to lay out
