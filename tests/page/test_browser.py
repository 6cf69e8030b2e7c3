"""The page in a real browser: it draws, follows its controls, says what is wrong, and everybody can use it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from weightwell_engine.dtypes import DTYPES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE = 30_000  # milliseconds

# Small enough to be measured at once.
SIGNAL = (
    "#signal?run=scheme%3Dkaiming_normal%26width%3D32%26depth%3D6&run=scheme%3Dxavier_normal%26width%3D32%26depth%3D6"
)
VIEWS = {"tensor": "#tensor?shape=24,24&scheme=orthogonal&seed=1", "signal": SIGNAL, "manifest": "#manifest"}

Open = Callable[..., "Page"]


@pytest.fixture
def show(browser: "Browser", server: str) -> Iterator[Open]:
    """How to open the page: with an address after ``/``, a width, and light or dark. Errors of the page fail a test."""
    pages: list[Page] = []
    errors: list[str] = []

    def opened(place: str = "", *, width: int = 1280, colours: Any = "light") -> "Page":
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
        page.on("request", lambda asked: None if asked.url.startswith(server) else errors.append(asked.url))
        page.goto(f"{server}/{place}")
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert errors == []


def drawn(page: "Page") -> None:
    """Wait until the view has drawn what was asked for."""
    page.wait_for_selector("section:not([hidden]):not(.busy) .drawn:not([hidden]) pre")


def law(page: "Page") -> str:
    return str(page.locator("#tensor .law").inner_text())


def test_the_first_view_draws_with_less_than_200_kb(browser: "Browser", server: str) -> None:
    page = browser.new_page()
    nbytes: list[int] = []
    page.on("response", lambda answer: nbytes.append(int(answer.headers["content-length"])))
    page.goto(server)
    drawn(page)
    assert len(nbytes) > 10
    assert sum(nbytes) < 200_000
    assert page.locator("[data-plot=histogram] canvas").count() == 1
    assert page.locator("[data-plot=singular] canvas").count() == 1
    assert page.locator("canvas.heat").evaluate("canvas => [canvas.width, canvas.height]") == [64, 128]
    page.close()


def test_the_view_follows_its_controls_and_its_link_makes_it_again(show: Open) -> None:
    page = show()
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
    again = show(link)
    drawn(again)
    assert law(again) == law(page)


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
    page = show()
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
    page.click("button[type=submit]")
    page.locator(".plan tbody tr", has_text="the same as a").wait_for()
    assert "normal with mean 0 and std 0.632" in page.locator(".plan tbody tr").first.inner_text()
    again = show(page.evaluate("location.hash"))
    drawn(again)
    assert again.locator(".plan").inner_text() == page.locator(".plan").inner_text()
    page.fill("textarea", '{"tensors": {')
    page.click("button[type=submit]")
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


@pytest.mark.parametrize("place", [*VIEWS.values(), "#tensor?shape=x&scheme=normal", "guide/local"])
def test_axe_finds_nothing(show: Open, axe: str, place: str) -> None:
    page = show(place)
    if "shape=x" in place:
        page.locator("#tensor [role=alert]").wait_for()
    elif place.startswith("#"):
        drawn(page)
        page.locator("section:not([hidden]) details").first.evaluate_all(
            "all => all.forEach((each) => (each.open = true))"
        )
    page.evaluate(axe)
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)
        found = page.evaluate("axe.run()")
        assert found["passes"]
        told = [
            f"{colours}: {each['id']}: {each['help']}: {[node['html'] for node in each['nodes']]}"
            for each in found["violations"]
        ]
        assert told == []


def test_dark_is_dark(show: Open) -> None:
    def back(colours: str) -> list[int]:
        page = show("guide/", colours=colours)
        return [
            int(part) for part in re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
        ]

    assert min(back("light")) > 240
    assert max(back("dark")) < 40


@pytest.mark.parametrize("place", [*VIEWS.values(), "guide/hub"])
def test_nothing_is_wider_than_a_telephone(show: Open, place: str) -> None:
    page = show(place, width=360)
    if place.startswith("#"):
        drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_keyboard_reaches_everything(show: Open) -> None:
    page = show()
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
