"""The guide: the pages of the project's ``docs`` folder, for a browser without a network."""

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.datastructures import Headers
from starlette.responses import Response

from weightwell_service.page import HEADERS
from weightwell_service.small_file import respond_small

INDEX = ""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} - Weightwell</title>
<link rel="icon" href="../page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="../page/page.css">
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
  <a class="name" href="../">Weightwell</a>
  <nav aria-label="Views">
    <a href="../#tensor">Tensor</a>
    <a href="../#signal">Signal</a>
    <a href="../#manifest">Manifest</a>
  </nav>
  <nav aria-label="Documentation" class="side">
    <a href="./" aria-current="{here}">Guide</a>
    <a href="../docs">API</a>
  </nav>
</header>
<div class="guide">
<nav aria-label="Pages"><ul>{links}</ul></nav>
<main id="main" tabindex="-1"><article>{body}</article></main>
</div>
</body>
</html>
"""


def respond_guide(method: str, headers: Headers, name: str) -> Response | None:
    """Return a page or an image of the guide, or its index; None if there is none of this name."""
    if name.endswith((".png", ".svg")):
        content = _images().get(name)
        return None if content is None else respond_small(method, headers, content, name, HEADERS)
    content = _pages().get(name.removesuffix(".md"))
    return None if content is None else respond_small(method, headers, content, "page.html", HEADERS)


def _folder() -> Path:
    """Return the folder of the pages: in the wheel next to this module, and in a checkout the ``docs`` of its root."""
    here = Path(str(files("weightwell_service")))
    packaged = here / "guide"
    return packaged if packaged.is_dir() else here.parents[1] / "docs"


@cache
def _images() -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in _folder().iterdir() if path.suffix in {".png", ".svg"}}


@cache
def _pages() -> Mapping[str, bytes]:
    """Return every page as HTML, by name."""
    sources = {path.stem: path.read_text("utf-8") for path in sorted(_folder().glob("*.md"))}
    titles = {name: _title(text) or name for name, text in sources.items()}
    bodies = {name: _rendered(text, sources) for name, text in sources.items()}
    found = {name: _page(name, titles[name], body, titles) for name, body in bodies.items()}
    items = "".join(f'<li><a href="{name}">{escape(title)}</a></li>' for name, title in titles.items())
    return found | {INDEX: _page(INDEX, "Guide", f"<h1>Guide</h1><ul>{items}</ul>", titles)}


def _title(text: str) -> str | None:
    found = re.match(r"# (.*)", text)
    return found[1].replace("`", "") if found else None


def _page(name: str, title: str, body: str, titles: Mapping[str, str]) -> bytes:
    links = "".join(
        f'<li><a href="{each}"{" aria-current=page" if each == name else ""}>{each}</a></li>' for each in titles
    )
    here = "page" if name == INDEX else "true"
    return _PAGE.format(title=escape(title), links=links, body=body, here=here).encode()


def _rendered(text: str, pages: Mapping[str, str]) -> str:
    """Return a page of Markdown as HTML, with anchors as GitHub's and links between the pages."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    used: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(tokens[place + 1], used))
        for child in token.children or ():
            if child.type == "link_open":
                _relink(child, pages)
    rendered: str = markdown.renderer.render(tokens, markdown.options, {})
    # An empty heading is none; and what scrolls must be reachable by the keyboard.
    rendered = rendered.replace("<th></th>", "<td></td>")
    return rendered.replace("<pre>", '<pre tabindex="0">').replace("<table>", '<table tabindex="0">')


def _anchor(heading: Token, used: dict[str, int]) -> str:
    """Return the identifier that GitHub gives a heading."""
    text = "".join(child.content for child in heading.children or ())
    base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
    used[base] = used.get(base, -1) + 1
    return f"{base}-{used[base]}" if used[base] else base


def _relink(link: Token, pages: Mapping[str, str]) -> None:
    """Let a link to another page name it as it is here; a link to a file that is not here becomes text."""
    target = str(link.attrGet("href") or "")
    if re.match(r"[a-z]+:|#", target):
        return
    path, _, anchor = target.partition("#")
    name = path.removesuffix(".md")
    if name in pages:
        link.attrSet("href", f"{name}#{anchor}" if anchor else name)
    elif not path.endswith((".png", ".svg")):
        link.attrs.pop("href", None)
