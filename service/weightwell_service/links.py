"""Links: a URL with a whole manifest in its query. So a file has an address, and the server stores nothing.

    manifest = base64url(zlib(JSON)), with or without padding

The JSON is the body of a POST (RFC 1950 for zlib, RFC 4648, section 5, for base64url).
"""

import binascii
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import ceil
from urllib.parse import urlencode

from weightwell_engine.exceptions import InvalidSpec, TooLarge
from weightwell_engine.spec import Spec

# RFC 9110, section 4.1, recommends that servers and proxies accept at least 8000 octets.
MAX_URL = 8000

# The most bytes of JSON in a URL: more than a URL of the usual length decompresses to. A zip bomb decompresses to a
# thousand times its length.
MAX_LINKED = 2**20

# Bytes that are compressed at once. After each block, the length of the URL is checked.
_BLOCK = 2**14

_MANIFEST = "/init?manifest="

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)


def link(spec: Spec) -> str:
    """Return the path and query of a spec's file at ``/init``; it may be longer than ``MAX_URL``."""
    return _flat_link(spec) if _is_flat(spec) else _MANIFEST + pack(spec.canonical())


def address(spec: Spec) -> tuple[str | None, str | None]:
    """Return the path and query of a spec's file; or None and advice if they would be too long.

    Compressing a long manifest takes seconds, so it stops when the URL is too long.
    """
    if _is_flat(spec):
        url, nbytes = _flat_link(spec), 0
        length = len(url)
    else:
        text = spec.canonical().encode()
        packed, part = _pack_beginning(text)
        url, nbytes = _MANIFEST + packed, len(text)
        length = round(len(_MANIFEST) + len(packed) / part)
    if length <= MAX_URL and nbytes <= MAX_LINKED:
        return url, None
    return None, _too_long(spec, length, nbytes)


def _too_long(spec: Spec, length: int, nbytes: int) -> str:
    """Return the reason why a URL of about ``length`` characters, with ``nbytes`` of JSON, is too long, and advice."""
    if length > MAX_URL:
        note = f"the URL would have about {length} characters, but proxies and servers need not accept more than "
        note += f"{MAX_URL}: post it"
    else:
        note = f"the JSON in the URL would have {nbytes} bytes, and a server reads at most {MAX_LINKED}: post it"
    if spec.generator == "torch":
        return f"{note}; do not split it: with generator=torch, a tensor's numbers depend on the tensors before it"
    parts = ceil(1.1 * max(length / MAX_URL, nbytes / MAX_LINKED))
    return f"{note}, or split it into {parts} manifests, which changes no number"


def _is_flat(spec: Spec) -> bool:
    """Whether a spec is one tensor whose link has plain fields and not a manifest."""
    return len(spec.tensors) == 1 and not spec.aliases and not spec.tensors[0].parts


def _flat_link(spec: Spec) -> str:
    return f"/init?{urlencode(_flat(spec), safe=',:')}"


def _flat(spec: Spec) -> dict[str, str]:
    """Return the single tensor of a spec as text fields of a query."""
    [tensor] = spec.tensors
    fields = {**tensor.canonical(), "shape": ",".join(map(str, tensor.shape))}
    texts = {key: _text(value) for key, value in fields.items()}
    return {**texts, "name": tensor.name, "generator": spec.generator}


def _text(value: object) -> str:
    """Return a field as it stands in a query: a list is separated by commas."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def pack(text: str) -> str:
    """Return the compressed form of a JSON text for a query."""
    return _in_base64(zlib.compress(text.encode(), 9))


def _pack_beginning(text: bytes) -> tuple[str, float]:
    """Return the compressed beginning of a JSON text, and its fraction of the text, in (0, 1].

    The compression stops before the end if the result is already too long for a URL or a server.
    """
    deflater, packed, taken = zlib.compressobj(9), b"", 0
    while taken < len(text) and taken <= MAX_LINKED and len(packed) <= MAX_URL:
        packed += deflater.compress(text[taken : taken + _BLOCK])
        taken += _BLOCK
    return _in_base64(packed + deflater.flush()), min(taken / len(text), 1.0)


def _in_base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unpack(packed: str, *, limit: int) -> bytes:
    """Return the JSON of a compressed query; raise ``InvalidSpec`` if it is truncated or invalid, and ``TooLarge``."""
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
    return InvalidSpec("manifest", got=packed, expected="complete JSON, compressed with zlib, in base64url")
