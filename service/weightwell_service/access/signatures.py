"""Signed addresses: they open one file, until a time, for a tool that has no token.

    /init?shape=4&scheme=normal&signed_by=training&expires=1795000000&signature=...

The signature is the HMAC-SHA256, in hexadecimal digits, of the path and the query before it. The limits of the token
``signed_by`` apply. An address is void if that token is removed from the file of tokens, or the key is changed.
"""

import hmac
import re

# The longest time for which an address can be signed, in seconds: a week, as for S3.
LONGEST = 7 * 86400

_FORM = re.compile(
    rb"(?P<query>.*?)&?signed_by=(?P<name>[A-Za-z0-9._-]{1,64})&expires=(?P<expires>\d{1,12})&signature=(?P<hmac>[0-9a-f]{64})"
)


class InvalidSignature(ValueError):
    """A signed address cannot be used. The message has the reason."""


def signed(address: str, name: str, key: bytes, expires: int) -> str:
    """Return an address with a signature; ``expires`` is a time in seconds since 1970."""
    address += f"{'&' if '?' in address else '?'}signed_by={name}&expires={expires}"
    return f"{address}&signature={_signature(address.encode(), key)}"


def is_signed(query: bytes) -> bool:
    """Whether a query has a signature."""
    return b"signature=" in query


def verified(path: bytes, query: bytes, key: bytes | None, now: float) -> tuple[str, bytes]:
    """Return the name of the token that signed an address, and the query without the signature.

    Raises ``InvalidSignature``. ``now`` is the time in seconds since 1970.
    """
    if key is None:
        raise InvalidSignature("this server has no signing_key, so it accepts no signed addresses")
    found = _FORM.fullmatch(query)
    if found is None:
        raise InvalidSignature("a signed address must end in signed_by=NAME&expires=TIME&signature=64 digits")
    text = path + b"?" + query[: found.start("hmac") - len(b"&signature=")]
    if not hmac.compare_digest(_signature(text, key).encode(), found["hmac"]):
        raise InvalidSignature("the signature does not belong to this address; use it exactly as it was given")
    if now >= int(found["expires"]):
        raise InvalidSignature(f"the signed address has expired, {now - int(found['expires']):.0f} s ago")
    return found["name"].decode(), found["query"]


def _signature(text: bytes, key: bytes) -> str:
    return hmac.digest(key, text, "sha256").hex()
