"""Usage: the limits of a token, by an injected clock."""

import pytest

from weightwell_service.access.tokens import Token
from weightwell_service.access.usage import Exceeded, Usage

DIGEST = "0" * 64
FREE = Token(name="free", sha256=DIGEST)
TOKEN = Token(name="bound", sha256=DIGEST, max_responses=2, bytes_per_day=100)


def test_a_token_has_a_number_of_answers_at_once() -> None:
    usage = Usage(lambda: 0)
    usage.begin(TOKEN)
    usage.begin(TOKEN)
    with pytest.raises(Exceeded, match="has 2 answers under way, and may have 2") as caught:
        usage.begin(TOKEN)
    assert caught.value.retry_after == 1
    usage.end(TOKEN)
    usage.begin(TOKEN)
    assert usage.of(TOKEN).responses == 2


def test_a_token_has_a_number_of_bytes_a_day_which_begins_at_midnight() -> None:
    now = 86400 * 20 + 86000.0
    usage = Usage(lambda: now)
    usage.take(TOKEN, 60)
    with pytest.raises(Exceeded, match=r"100 bytes a day .*, has had 60, and this answer has 41") as caught:
        usage.take(TOKEN, 41)
    assert caught.value.retry_after == 400
    usage.take(TOKEN, 40)
    now += 400
    usage.take(TOKEN, 100)
    assert usage.of(TOKEN).nbytes == 100


def test_bytes_that_are_not_sent_are_given_back() -> None:
    usage = Usage(lambda: 0)
    usage.take(TOKEN, 100)
    usage.give(TOKEN, 30)
    usage.take(TOKEN, 30)
    assert usage.of(TOKEN).nbytes == 100


def test_bytes_of_yesterday_are_not_given_back_today() -> None:
    now = 0.0
    usage = Usage(lambda: now)
    usage.take(TOKEN, 100)
    now = 86400.0
    usage.give(TOKEN, 100)
    assert usage.of(TOKEN).nbytes == 0


def test_a_token_without_limits_has_none_and_is_counted() -> None:
    usage = Usage(lambda: 0)
    for _ in range(100):
        usage.begin(FREE)
        usage.take(FREE, 10**12)
    assert (usage.of(FREE).responses, usage.of(FREE).nbytes) == (100, 10**14)
