"""The page and the guide without a browser: who gets them, what they may load, and how much that is."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from weightwell_service.page import POLICY, wants_html

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "service/weightwell_service/static"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML;Q=0.5", True),
        ("*/*", False),
        ("", False),
        ("text/plain, text/html;q=0.9", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("application/json", False),
    ],
)
def test_a_browser_gets_the_page_and_others_the_text(http: httpx.Client, accept: str, *, html: bool) -> None:
    assert wants_html(accept) == html
    answer = http.get("/", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["vary"] == "accept"
    assert answer.headers["content-type"] == f"text/{'html' if html else 'plain'}; charset=utf-8"


def test_a_page_loads_nothing_from_elsewhere_and_has_nothing_inline(http: httpx.Client) -> None:
    pages = [http.get("/", headers={"accept": BROWSER}), http.get("/guide/"), http.get("/guide/http")]
    for page in pages:
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<style|\son\w+=|\sstyle=|javascript:", page.text)
        assert all(tag.endswith("></script>") for tag in re.findall(r"<script.*", page.text))
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', page.text)
        assert loaded
        assert not any(re.match(r"\w+:|//", each) for each in loaded)
    assert "'unsafe" not in POLICY
    assert "http" not in POLICY


def test_a_file_of_the_page_is_validated_by_its_entity_tag(http: httpx.Client) -> None:
    for path in ("/page/page.css", "/page/page.js", "/guide/http"):
        first = http.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = http.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert http.head(path).headers["content-length"] == str(len(first.content))


def test_a_file_that_is_not_there_is_a_problem(http: httpx.Client) -> None:
    for path in ("/page/nothing.js", "/page/..%2Fapp.py", "/guide/nothing", "/guide/nothing.png"):
        assert http.get(path).status_code == 404


def test_the_vendored_library_has_its_licence() -> None:
    assert "Permission is hereby granted" in (STATIC / "uPlot.LICENSE.txt").read_text()
    assert "uPlot (v1.6.32)" in (STATIC / "uPlot.iife.min.js").read_text()[:100]


def test_every_module_is_loaded_from_a_file_that_is_there() -> None:
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'"\./(\w+\.js)"', path.read_text()):
            assert (STATIC / name).is_file(), f"{path.name} imports {name}"


def test_the_examples_of_the_page_are_valid(http: httpx.Client) -> None:
    start = re.search(r"const START = \{(.*)\}", (STATIC / "tensor.js").read_text())
    assert start
    tensor = dict(re.findall(r'(\w+): "([^"]*)"', start[1]))
    assert set(tensor) == {"shape", "scheme", "seed", "dtype"}
    for path in ("/init", "/inspect"):
        assert http.get(path, params=tensor).status_code == 200
    queries = re.findall(r'^  "(activation=.*)",$', (STATIC / "signal.js").read_text(), re.MULTILINE)
    assert len(queries) == 3
    for query in queries:
        assert http.get(f"/signal?{query}&width=32&depth=3").status_code == 200
    manifest = re.search(r"const START = `(.*?)`", (STATIC / "manifest.js").read_text(), re.DOTALL)
    assert manifest
    assert http.post("/plan", json=json.loads(manifest[1])).json()["unused"] == []


def test_the_fields_of_a_signal_are_those_of_the_document(http: httpx.Client) -> None:
    fields: list[dict[str, Any]] = http.get("/page/signal.json").json()
    described = http.get("/openapi.json").json()["paths"]["/signal"]["get"]["parameters"]
    assert [each["name"] for each in fields] == [each["name"] for each in described]
    assert {each["name"]: each["default"] for each in fields}["depth"] == 50


# The guide -----------------------------------------------------------------------------------------------------------

PAGES = sorted((ROOT / "docs").glob("*.md"))


def test_the_index_lists_every_page(http: httpx.Client) -> None:
    index = http.get("/guide/")
    assert http.get("/guide", follow_redirects=True).url == index.url
    assert set(re.findall(r'<li><a href="([\w-]+)">', index.text)) == {path.stem for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_of_a_page_leads_to_a_place_that_is_there(http: httpx.Client, path: Path) -> None:
    page = http.get(f"/guide/{path.stem}")
    assert page.status_code == 200
    assert http.get(f"/guide/{path.name}").text == page.text
    for link in re.findall(r'<a href="([^"]*)"', page.text):
        if link.startswith(("http:", "https:", "../#")) or link in {"../", "../docs", "./"}:
            continue
        name, _, anchor = link.partition("#")
        text = http.get(f"/guide/{name}").text if name else page.text
        assert not anchor or f'id="{anchor}"' in text or anchor == "main", link
    for image in re.findall(r'<img src="([^"]*)"', page.text):
        assert http.get(f"/guide/{image}").headers["content-type"] == "image/png"
