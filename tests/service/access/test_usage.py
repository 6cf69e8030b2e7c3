"""Usage: the limits of a token, by an injected clock."""

import pytest

from weightwell_service.access import usage as usages
from weightwell_service.access.clients import Client
from weightwell_service.access.usage import Exceeded, Usage

FREE = Client("token", "free")
TOKEN = Client("token", "bound", max_responses=2, bytes_per_day=100)


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
    day = usage.take(TOKEN, 100)
    usage.give(TOKEN, 30, day)
    usage.take(TOKEN, 30)
    assert usage.of(TOKEN).nbytes == 100


def test_bytes_of_yesterday_are_not_given_back_today() -> None:
    now = 0.0
    usage = Usage(lambda: now)
    yesterday = usage.take(TOKEN, 100)
    now = 86400.0
    usage.take(TOKEN, 70)
    usage.give(TOKEN, 100, yesterday)
    assert usage.of(TOKEN).nbytes == 70


def test_a_token_without_limits_has_none_and_is_counted() -> None:
    usage = Usage(lambda: 0)
    for _ in range(100):
        usage.begin(FREE)
        usage.take(FREE, 10**12)
    assert (usage.of(FREE).responses, usage.of(FREE).nbytes) == (100, 10**14)


def test_an_address_and_a_token_of_the_same_name_are_two_clients() -> None:
    usage = Usage(lambda: 0)
    usage.begin(Client("address", "bound", max_responses=1))
    usage.begin(TOKEN)
    assert usage.of(TOKEN).responses == 1
    with pytest.raises(Exceeded, match=r"the address bound has 1 .* \(WEIGHTWELL_MAX_RESPONSES_PER_ADDRESS\)"):
        usage.begin(Client("address", "bound", max_responses=1))


def test_of_too_many_clients_the_longest_absent_without_an_answer_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usages, "MOST_CLIENTS", 3)
    usage = Usage(lambda: 0)
    clients = [Client("address", str(number)) for number in range(5)]
    usage.begin(clients[0])
    for client in clients[1:4]:
        usage.take(client, 7)
    usage.take(clients[2], 7)
    usage.take(clients[4], 7)
    assert [usage.of(client).nbytes for client in (clients[2], clients[4])] == [14, 7]
    assert usage.of(clients[0]).responses == 1
    assert usage.of(clients[3]).nbytes == 0
