"""Signed addresses: only the address that was signed, only until its time."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightwell_service.access.signatures import InvalidSignature, is_signed, signed, verified

KEY = b"k" * 32
ADDRESS = signed("/init?shape=4&scheme=normal", "training", KEY, 1000)


def parts(address: str) -> tuple[bytes, bytes]:
    path, _, query = address.partition("?")
    return path.encode(), query.encode()


def test_the_signature_is_the_hmac_of_what_is_before_it() -> None:
    text, _, signature = ADDRESS.partition("&signature=")
    assert text == "/init?shape=4&scheme=normal&signed_by=training&expires=1000"
    assert signature == hmac.new(KEY, text.encode(), "sha256").hexdigest()


def test_an_address_opens_its_file_until_its_time() -> None:
    assert verified(*parts(ADDRESS), KEY, 999.9) == ("training", b"shape=4&scheme=normal")
    with pytest.raises(InvalidSignature, match="expired, 5 s ago"):
        verified(*parts(ADDRESS), KEY, 1005)


def test_an_address_without_a_query_can_be_signed() -> None:
    assert verified(*parts(signed("/schemes", "a", KEY, 10)), KEY, 0) == ("a", b"")


@given(st.integers(0, len(ADDRESS) - 1), st.characters(codec="ascii"))
def test_a_changed_address_is_refused(at: int, other: str) -> None:
    changed = ADDRESS[:at] + other + ADDRESS[at + 1 :]
    if changed != ADDRESS and changed.count("?") == 1:
        with pytest.raises(InvalidSignature):
            verified(*parts(changed), KEY, 0)


@pytest.mark.parametrize(
    ("address", "key", "message"),
    [
        (ADDRESS, b"K" * 32, "does not belong to this address"),
        (ADDRESS, None, "no signing_key"),
        (ADDRESS + "&seed=1", KEY, "must end in"),
        (ADDRESS.replace("signed_by=training&", ""), KEY, "must end in"),
        ("/init?signature=00", KEY, "must end in"),
    ],
)
def test_other_addresses_are_refused_with_a_reason(address: str, key: bytes | None, message: str) -> None:
    with pytest.raises(InvalidSignature, match=message):
        verified(*parts(address), key, 0)


def test_only_a_query_with_a_signature_is_signed() -> None:
    assert is_signed(parts(ADDRESS)[1])
    assert not is_signed(b"shape=4&scheme=normal")
