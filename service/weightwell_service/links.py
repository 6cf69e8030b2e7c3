"""Links: a manifest in the query of a URL, so that any file has an address, and needs no storage behind it.

    manifest = base64url(zlib(JSON)), with or without padding

The JSON is whatever could be posted (RFC 1950 for zlib, RFC 4648, section 5, for base64url).
"""

import binascii
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import ceil
from urllib.parse import urlencode

from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.spec import Spec

# RFC 9110, section 4.1, recommends that everything on the way of a request take at least 8000 octets.
MAX_URL = 8000

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)


def link(spec: Spec) -> str:
    """Return the path and query under which ``/init`` serves a spec's file; it may be longer than ``MAX_URL``."""
    if len(spec.tensors) == 1 and not spec.aliases:
        return f"/init?{urlencode(_flat(spec), safe=',:')}"
    return f"/init?manifest={pack(spec.canonical())}"


def address(spec: Spec) -> tuple[str | None, str | None]:
    """Return the path and query of a spec's file, or None and what to do because they would be too long."""
    url = link(spec)
    return (url, None) if len(url) <= MAX_URL else (None, _too_long(spec, len(url)))


def _too_long(spec: Spec, length: int) -> str:
    note = (
        f"the URL would have {length} characters, and not everything on its way need take more than {MAX_URL}: post it"
    )
    if spec.generator == "torch":
        return f"{note}; tensors in a manifest of their own would be drawn anew from torch's seed"
    return f"{note}, or split its tensors over {ceil(1.1 * length / MAX_URL)} manifests, which changes none of them"


def _flat(spec: Spec) -> dict[str, str]:
    """Return the one tensor of a spec as the fields of a query, as text."""
    [tensor] = spec.tensors
    fields = {**tensor.canonical(), "shape": ",".join(map(str, tensor.shape))}
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in fields.items()}
    return {**texts, "name": tensor.name, "generator": spec.generator}


def pack(text: str) -> str:
    """Return a JSON text as the query holds it."""
    return urlsafe_b64encode(zlib.compress(text.encode(), 9)).rstrip(b"=").decode()


def unpack(packed: str, *, limit: int) -> bytes:
    """Return the JSON that a query holds; raise ``InvalidSpec`` if it is cut or no such thing, and ``TooLarge``."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(_decode(packed), limit + 1)
    except (binascii.Error, zlib.error):
        raise _unreadable(packed) from None
    if len(text) > limit:
        raise TooLarge(
            f"the manifest has more than the {limit} bytes that this server reads from a URL; post it, or split it"
        )
    if not inflater.eof or inflater.unused_data:
        raise _unreadable(packed)
    return text


def _decode(packed: str) -> bytes:
    if not _ALPHABET.fullmatch(packed):
        raise binascii.Error
    digits = packed.rstrip("=")
    return urlsafe_b64decode(digits + "=" * (-len(digits) % 4))


def _unreadable(packed: str) -> InvalidSpec:
    return InvalidSpec("manifest", got=packed, expected="JSON, compressed with zlib, in base64url, cut nowhere")
