"""Connections stay in the process and event loop that opened them; settings can be copied to others."""

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

import weightwell
from tests.conftest import PATIENCE
from weightwell import pools
from weightwell.pools import Turns

if TYPE_CHECKING:
    from tests.client.conftest import Server

Connect = Callable[..., Any]

GAIN = {"source": "torch", "nonlinearity": "relu", "gain": 1.5}


def door_of(client: weightwell.Client | weightwell.AsyncClient) -> Any:
    return client._door


def bits(tensor: Any) -> bytes:
    return bytes(np.asarray(tensor).tobytes())


# Processes -----------------------------------------------------------------------------------------------------------

# Draws 120 tensors in two processes and their parent, which have one client, and compares the files with those that
# it drew alone.
THREE = """
import asyncio, io, multiprocessing, sys
import weightwell

async def drawn(client, seed):
    file = io.BytesIO()
    saved = client.save(file, (32, 32), "normal", seed=seed)
    if saved is not None:
        await saved
    return file.getvalue()

async def gathered(client, seeds):
    return dict(zip(seeds, await asyncio.gather(*[drawn(client, seed) for seed in seeds])))

def close(client):
    if isinstance(client, weightwell.Client):  # others close with their event loop
        client.close()

def draw(client, seeds, queue):
    queue.put(asyncio.run(gathered(client, seeds)))
    close(client)

if __name__ == "__main__":
    url, kind, method = sys.argv[1:]
    client = getattr(weightwell, kind)(url)
    processes = multiprocessing.get_context(method)
    queue = processes.Queue()
    alone = asyncio.run(gathered(client, range(120)))
    children = [processes.Process(target=draw, args=(client, range(n, 120, 3), queue)) for n in range(2)]
    for child in children:
        child.start()
    together = asyncio.run(gathered(client, range(2, 120, 3)))
    for child in children:
        together |= queue.get()
    for child in children:
        child.join()
    close(client)
    print(together == alone, len(set(alone.values())))
"""


def run(tmp_path: Path, program: str, *arguments: str) -> str:
    """Run a program and return its output; it must print nothing to standard error and close every socket."""
    path = tmp_path / "program.py"
    path.write_text(program)
    command = [sys.executable, "-W", "error::ResourceWarning", str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=4 * PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_processes_that_share_a_client_get_the_same_tensors_as_one(
    server: str, tmp_path: Path, kind: str, method: str
) -> None:
    assert run(tmp_path, THREE, server, kind, method) == "True 120\n"


LOADER = """
import sys, torch, weightwell

class Draws(torch.utils.data.Dataset):
    def __init__(self, client):
        self.client = client

    def __len__(self):
        return 48

    def __getitem__(self, seed):
        return self.client.init((32, 32), "normal", seed=seed)

with weightwell.Client(sys.argv[1]) as client:
    draws = Draws(client)
    alone = torch.stack([draws[seed] for seed in range(48)])
    loader = torch.utils.data.DataLoader(draws, num_workers=2, batch_size=4, multiprocessing_context="fork")
    print(torch.equal(torch.cat([*loader]), alone))
"""


def test_workers_of_a_data_loader_get_the_same_tensors_as_their_parent(server: str, tmp_path: Path) -> None:
    assert run(tmp_path, LOADER, server) == "True\n"


# A child that uses, closes and destroys all that it has inherited, and then ends as any program does.
UNNOTICED = """
import asyncio, gc, os, sys
import weightwell

url = sys.argv[1]
client, other = weightwell.Client(url), weightwell.AsyncClient(url)
runner = asyncio.Runner()
client.gain("relu")
runner.run(other.gain("relu"))
child = os.fork()
if not child:
    client.gain("relu")
    client.close()
    asyncio.run(other.aclose())
    del client, other, runner
    gc.collect()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
client.gain("relu")
client.close()
runner.run(other.gain("relu"))
runner.run(other.aclose())
runner.close()
"""


def test_a_child_does_not_disturb_its_parent(fake: "Server", tmp_path: Path) -> None:
    assert run(tmp_path, UNNOTICED, fake.url) == "7\n"
    assert len(fake.requests) == 5
    assert fake.connections == 3  # one of each client, and the child's


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Make this process one that has been forked, without the hook that Python calls in a child that it forks."""
    inherited: list[dict[object, pools.ProcessConnections]] = []
    monkeypatch.setattr(pools, "_inherited", inherited)
    yield lambda: monkeypatch.setattr(pools, "_process", lambda: (os.getpid() + 1, 0))
    for http in (http for owned in inherited for each in owned.values() for http in each.clients):
        http.close()


def test_a_child_of_a_fork_that_python_did_not_make_has_connections_of_its_own(
    fake: "Server", fork: Callable[[], None]
) -> None:
    with weightwell.Client(fake.url) as client:
        client.gain("relu")
        fork()
        client.gain("relu")
        client.gain("relu")
    assert fake.connections == 2


def test_a_child_does_not_wait_for_locks_of_its_parent(fake: "Server", fork: Callable[[], None]) -> None:
    with weightwell.Client(fake.url) as client:
        door_of(client).pool._lock.acquire()
        for _ in range(pools.CALLS):
            door_of(client).pool._owned.setdefault(None, door_of(client).pool._open()).turns.__enter__()
        fork()
        assert client.gain("relu") == 1.5


def test_a_child_has_no_use_for_the_transport_of_its_parent(fork: Callable[[], None]) -> None:
    client = weightwell.Client("http://weights.test", transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    fork()
    with pytest.raises(RuntimeError, match="create the client in the process that uses it"):
        client.gain("relu")


def test_a_child_makes_a_transport_where_there_is_a_function_that_does(fork: Callable[[], None]) -> None:
    made: list[httpx.MockTransport] = []

    def make() -> httpx.MockTransport:
        made.append(httpx.MockTransport(lambda _: httpx.Response(200, json=GAIN)))
        return made[-1]

    client = weightwell.Client("http://weights.test", transport=make)
    assert (client.gain("relu"), len(made)) == (1.5, 1)
    fork()
    assert (client.gain("relu"), len(made)) == (1.5, 2)


@pytest.mark.parametrize("forked", [False, True])
def test_an_event_loop_closes_the_connections_of_its_own_process_when_it_ends(
    monkeypatch: pytest.MonkeyPatch, forked: bool
) -> None:
    closed: list[bool] = []

    class Transport(httpx.MockTransport):
        async def aclose(self) -> None:
            closed.append(True)

    def make() -> Transport:
        return Transport(lambda _: httpx.Response(200, json=GAIN))

    client = weightwell.AsyncClient("http://weights.test", transport=make)
    with asyncio.Runner() as runner:
        runner.run(client.gain("relu"))
        if forked:
            monkeypatch.setattr(pools, "_process", lambda: (os.getpid() + 1, 0))
    assert bool(closed) is not forked


def test_a_transport_of_another_kind_is_refused(connect: Connect) -> None:
    with pytest.raises(TypeError, match="transport must be one of httpx, or a function that returns one, got 3"):
        connect("http://weights.test", transport=3)


# Copies --------------------------------------------------------------------------------------------------------------


def copies(client: Any) -> list[Any]:
    return [copy.deepcopy(client), pickle.loads(pickle.dumps(client))]  # noqa: S301 - our own bytes


def test_settings_travel_and_connections_do_not(fake: "Server") -> None:
    settings: Any = {"headers": {"X-Team": "vision"}, "auth": ("ada", "secret"), "timeout": 7, "wait": 5}
    with weightwell.Client(fake.url, progress=False, connections=3, **settings) as client:
        client.gain("relu")
        for each in copies(client):
            with each:
                assert each.gain("relu") == 1.5
            sent = fake.requests[-1].headers
            assert (sent["x-team"], sent["authorization"][:5]) == ("vision", "Basic")
            door = door_of(each)
            assert (door.pool.settings.timeout, door.retry.budget) == (7, 5)
            assert (door.connections, each._progress) == (3, False)
        client.gain("relu")
    assert fake.connections == 3


def test_asynchronous_clients_are_copied_as_well(fake: "Server") -> None:
    async def gains() -> list[float]:
        async with weightwell.AsyncClient(fake.url) as client:
            await client.gain("relu")
            found = []
            for each in copies(client):
                async with each:
                    found.append(await each.gain("relu"))
            return found

    assert asyncio.run(gains()) == [1.5, 1.5]
    assert fake.connections == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", [weightwell.Client, weightwell.AsyncClient])
def test_a_transport_cannot_be_copied(kind: Any, copied: Callable[[object], object]) -> None:
    client = kind("http://weights.test", transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    with pytest.raises(TypeError, match=r"create the client in the process that uses it.*transport=lambda"):
        copied(client)


# Event loops ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(fake: "Server") -> Callable[[weightwell.AsyncClient], None]:
    """Draw some tensors at once and check that they are right: ``many(client)``, in an event loop of its own."""

    async def draw(client: weightwell.AsyncClient) -> None:
        tensors = await asyncio.gather(*[client.init((5, seed), "normal", seed=seed) for seed in range(20)])
        assert [bits(tensor) for tensor in tensors] == [fake.pattern(20 * seed) for seed in range(20)]

    return lambda client: asyncio.run(draw(client))


def test_a_client_works_in_one_event_loop_after_another(
    fake: "Server", many: Callable[[weightwell.AsyncClient], None]
) -> None:
    client = weightwell.AsyncClient(fake.url)
    for _ in range(4):
        many(client)
        gc.collect()  # no socket is left to its destructor, which would warn
    assert len(door_of(client).pool._owned) == 1


def test_a_client_works_in_several_event_loops_at_once(
    fake: "Server", many: Callable[[weightwell.AsyncClient], None]
) -> None:
    client = weightwell.AsyncClient(fake.url)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(many, [client] * 8))


def test_closing_a_client_in_one_loop_leaves_the_connections_of_another_to_its_end(fake: "Server") -> None:
    client = weightwell.AsyncClient(fake.url)
    with asyncio.Runner() as runner:
        runner.run(client.gain("relu"))
        asyncio.run(client.aclose())
        with pytest.raises(RuntimeError, match="this client is closed"):
            asyncio.run(client.gain("relu"))
    gc.collect()


def test_a_closed_client_says_so(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    client.gain("relu")
    client.close() if hasattr(client._client, "close") else client.aclose()
    with pytest.raises(RuntimeError, match="this client is closed: create a new one"):
        client.gain("relu")


# Threads, and calls at once ------------------------------------------------------------------------------------------


def test_threads_that_share_a_client_get_the_same_tensors_as_one(fake: "Server") -> None:
    with weightwell.Client(fake.url) as client, ThreadPoolExecutor(16) as threads:
        tensors = list(threads.map(lambda seed: client.init((5, seed), "normal", seed=seed), range(200)))
    assert [bits(tensor) for tensor in tensors] == [fake.pattern(20 * seed) for seed in range(200)]
    assert fake.connections <= 16


def test_hundreds_of_calls_at_once_take_few_connections(fake: "Server") -> None:
    async def draw() -> list[Any]:
        async with weightwell.AsyncClient(fake.url) as client:
            return await asyncio.gather(*[client.init(3, "normal", seed=seed) for seed in range(300)])

    assert [bits(tensor) for tensor in asyncio.run(draw())] == [fake.pattern(12)] * 300
    assert fake.connections <= pools.CALLS


def test_calls_in_turn_take_one_connection(fake: "Server", connect: Connect) -> None:
    client = connect(fake.url)
    for _ in range(5):
        client.gain("relu")
    assert fake.connections == 1


def waiting(turns: Turns, count: int) -> None:
    """Return when this many threads wait."""
    while len(turns._waiting) < count:
        pass


def test_turns_are_first_in_first_out() -> None:
    turns, order = Turns(1), list[object]()

    def take(name: object) -> None:
        with turns:
            order.append(name)

    with ThreadPoolExecutor(3) as threads:
        with turns:
            for name in range(3):
                threads.submit(take, name)
                waiting(turns, name + 1)
        take("the thread that had the turn before")
    assert order == [0, 1, 2, "the thread that had the turn before"]


@pytest.mark.usefixtures("interruptible")
def test_a_thread_that_is_interrupted_waits_no_longer() -> None:
    turns, main = Turns(1), threading.get_ident()

    def interrupt() -> None:
        waiting(turns, 1)
        signal.pthread_kill(main, signal.SIGINT)

    with turns:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt), turns:
            pass
        interrupter.join()
        assert not turns._waiting
    with turns:
        pass


def test_a_turn_that_comes_to_a_thread_that_was_interrupted_is_passed_on() -> None:
    turns = Turns(1)
    turns.__enter__()
    turns._leave(threading.Lock())  # which is no longer among those that wait
    with turns:
        pass
