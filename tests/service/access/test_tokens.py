"""The file of tokens: what is read, and messages that show no secret."""

from hashlib import sha256
from pathlib import Path

import pytest

from weightwell_service.access.tokens import InvalidTokens, Token, Tokens

DIGEST = sha256(b"right").hexdigest()
ONE = f'[[tokens]]\nname = "training"\nsha256 = "{DIGEST}"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_token_is_found_by_itself_and_by_its_name(file: Path) -> None:
    file.write_text(f"signing_key = '{'k' * 32}'\n{ONE}max_bytes = 1_000\nmax_responses = 2\nbytes_per_day = 5000\n")
    tokens = Tokens.read(file)
    expected = Token(name="training", sha256=DIGEST, max_bytes=1000, max_responses=2, bytes_per_day=5000)
    assert tokens.find(b"right") == tokens.named("training") == expected
    assert tokens.signing_key == b"k" * 32


def test_limits_and_the_signing_key_may_be_absent(file: Path) -> None:
    file.write_text(ONE)
    tokens = Tokens.read(file)
    assert tokens.find(b"right") == Token(name="training", sha256=DIGEST)
    assert tokens.signing_key is None


@pytest.mark.parametrize("wrong", [b"", b"righ", b"right ", b"Right", DIGEST.encode(), b"\xff"])
def test_no_other_text_is_the_token(file: Path, wrong: bytes) -> None:
    file.write_text(ONE)
    assert Tokens.read(file).find(wrong) is None


def test_an_unknown_name_is_no_token(file: Path) -> None:
    file.write_text(ONE)
    assert Tokens.read(file).named("other") is None


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tokens must be a list of tables, [[tokens]], with at least one"),
        ("tokens = []", "tokens must be a list of tables, [[tokens]], with at least one"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{SECRET}'", "tokens.0.sha256 must be 64 hexadecimal digits in lower case"),
        (ONE + f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST.upper()}'", "tokens.1.sha256 must be 64 hexadecimal digits"),
        (f"[[tokens]]\nname = 'a b'\nsha256 = '{DIGEST}'", "tokens.0.name must be 1 to 64 letters"),
        (ONE + "max_bytes = 0", "tokens.0.max_bytes must be a positive integer"),
        (ONE + "max_responses = '2'", "tokens.0.max_responses must be a positive integer"),
        (ONE + "bytes_per_day = 1.5", "tokens.0.bytes_per_day must be a positive integer"),
        (ONE + f"token = '{SECRET}'", "tokens.0.token must be absent: there is no such field"),
        (ONE + f"signing_key = '{SECRET * 3}'", "tokens.0.signing_key must be before the first [[tokens]]"),
        ("max_bytes = 1\n" + ONE, "max_bytes must be below a line [[tokens]]"),
        (f"signing_key = '{SECRET}'\n{ONE}", "signing_key must be a text of at least 32 characters"),
        (ONE + ONE, "2 tokens have the same name 'training'; each needs its own"),
        (ONE + ONE.replace("training", "other"), "2 tokens have the same sha256; each needs its own"),
        (f"[[tokens]\n{SECRET}", "line 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_field_and_no_value(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidTokens) as caught:
        Tokens.read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_absent_or_not_text_is_named(file: Path) -> None:
    with pytest.raises(InvalidTokens, match="No such file"):
        Tokens.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidTokens, match="not in UTF-8"):
        Tokens.read(file)
