"""The page for a browser: static files with entity tags, under a strict Content-Security-Policy.

It has no build step. ``static/uPlot.iife.min.js`` and ``static/uPlot.min.css`` are those of uPlot from npm, unchanged.
"""

import json
from functools import cache
from importlib.resources import files

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from weightwell_engine.parsing.signal import DEFAULT_SCHEME, EQUAL_LAYERS
from weightwell_service.openapi.requests import query_of_signal
from weightwell_service.small_file import respond_small

# Everything comes from this server, nothing is inline, and no text becomes HTML or a script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

# A cache asks each time whether its copy is still right: the files change with the version of the service.
HEADERS = {"cache-control": "no-cache", "content-security-policy": POLICY, "referrer-policy": "no-referrer"}

_HTML = "text/html"


def wants_html(accept: str) -> bool:
    """Whether an Accept field prefers HTML to plain text, as those of browsers do, and not those of curl."""
    qualities = dict(map(_preference, accept.lower().split(",")))
    html = qualities.get(_HTML, 0.0)
    return html > 0.0 and html >= qualities.get("text/plain", 0.0)


def is_static(scope: Scope) -> bool:
    """Whether a request is for the page, its files or the guide, which are the same on every server."""
    path: str = scope["path"]
    if scope["method"] not in ("GET", "HEAD"):
        return False
    if path != "/":
        return path == "/guide" or path.startswith(("/page/", "/guide/"))
    return wants_html(", ".join(Headers(scope=scope).getlist("accept")))


def _preference(item: str) -> tuple[str, float]:
    """Return a media type and its quality in [0, 1]; 0 for one that is malformed."""
    kind, *parameters = (part.strip() for part in item.split(";"))
    quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
    try:
        return kind, min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return kind, 0.0


def respond_page(method: str, headers: Headers) -> Response:
    """Return the page."""
    content = _files()["index.html"]
    return respond_small(method, headers, content, "index.html", {**HEADERS, "vary": "accept"})


def respond_file(method: str, headers: Headers, name: str) -> Response | None:
    """Return a file of the page; None if there is no such file."""
    content = _fields_of_signals() if name == "signal.json" else _files().get(name)
    return None if content is None else respond_small(method, headers, content, name, HEADERS)


@cache
def _files() -> dict[str, bytes]:
    """Return the files of the page, by name."""
    folder = files("weightwell_service") / "static"
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@cache
def _fields_of_signals() -> bytes:
    """Return the fields of a stack as JSON, so that the page has no second list of them."""
    known = EQUAL_LAYERS[DEFAULT_SCHEME].model_fields.items()
    defaults = {name: field.default for name, field in known if not field.is_required()}
    fields = [
        {
            **each["schema"],
            "name": each["name"],
            "description": each["description"],
            "default": defaults.get(each["name"]),
        }
        for each in query_of_signal()
    ]
    return json.dumps(fields).encode()
