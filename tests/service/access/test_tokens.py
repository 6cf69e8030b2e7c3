"""The file of tokens: what is read, and messages that show no secret."""

import hmac
from hashlib import sha256
from pathlib import Path

import pytest

from weightwell_service.access import tokens as reading
from weightwell_service.access.clients import Client
from weightwell_service.access.costs import Costs, Limit
from weightwell_service.access.tokens import InvalidTokens, Tokens

DIGEST = sha256(b"right").hexdigest()
ONE = f'[[tokens]]\nname = "training"\nsha256 = "{DIGEST}"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_token_is_found_by_itself_and_by_its_name(file: Path) -> None:
    file.write_text(
        f"signing_key = '{'k' * 32}'\n{ONE}max_bytes = 1_000\nmax_responses = 2\nbytes_per_day = 5000\n"
        "max_tensors = 30\nmax_cpu_seconds = 2\ngenerators = ['philox']\nshare = 3\npriority = 'batch'\n"
    )
    tokens = Tokens.read(file)
    owner = "the token training may have"
    costs = Costs(
        max_bytes=Limit(1000, owner, "max_bytes"),
        max_tensors=Limit(30, owner, "max_tensors"),
        max_cpu_seconds=Limit(2.0, owner, "max_cpu_seconds"),
        generators=Limit(frozenset({"philox"}), owner, "generators"),
    )
    expected = Client("token", "training", max_responses=2, bytes_per_day=5000, share=3, batch=True, costs=costs)
    assert tokens.find(b"right") == tokens.named("training") == expected
    assert tokens.signing_key == b"k" * 32


def test_limits_and_the_signing_key_may_be_absent(file: Path) -> None:
    file.write_text(ONE)
    tokens = Tokens.read(file)
    assert tokens.find(b"right") == Client("token", "training")
    assert tokens.signing_key is None


def test_of_a_limit_of_the_server_and_one_of_the_token_the_lower_one_holds(file: Path) -> None:
    file.write_text(ONE + "max_tensors = 30\nmax_cpu_seconds = 5\n")
    server = Costs.of("this server allows", {"max_tensors": 40, "max_cpu_seconds": 4.5}, prefix="WEIGHTWELL_")
    client = Tokens.read(file, server).named("training")
    assert client is not None
    assert str(client.costs.max_tensors) == "the token training may have 30 (max_tensors)"
    assert str(client.costs.max_cpu_seconds) == "this server allows 4.5 (WEIGHTWELL_MAX_CPU_SECONDS)"


@pytest.mark.parametrize("sent", [b"token 0", b"token 49", b"wrong", b""])
def test_a_token_is_compared_with_all_in_constant_time(
    file: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"token {number}" for number in range(50)]
    file.write_text(
        "".join(
            f'[[tokens]]\nname = "{n}"\nsha256 = "{sha256(name.encode()).hexdigest()}"\n'
            for n, name in enumerate(names)
        )
    )
    tokens, compared = Tokens.read(file), []

    def counted(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(reading, "compare_digest", counted)
    found = tokens.find(sent)
    assert (found is not None) == (sent.decode() in names)
    assert compared == [(32, 32)] * 50


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
        (ONE + "max_tensors = 0", "tokens.0.max_tensors must be a positive integer"),
        (ONE + "max_cpu_seconds = inf", "tokens.0.max_cpu_seconds must be a positive number"),
        (ONE + "generators = []", "tokens.0.generators must be a list of at least one of philox, torch"),
        (ONE + f"generators = ['{SECRET}']", "tokens.0.generators.0 must be a list of at least one of philox, torch"),
        (ONE + "share = 101", "tokens.0.share must be an integer from 1 to 100"),
        (ONE + f"priority = '{SECRET}'", "tokens.0.priority must be normal or batch"),
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
