"""A child of a fork draws, whatever the threads of its parent do."""

import os
import select
import subprocess
import sys
from collections.abc import Callable
from threading import Event, RLock, Thread

import pytest

from weightwell_engine import forks
from weightwell_engine.generators.devices import Buffers, Cpu

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork", allow_module_level=True)

# Threads draw while the main thread forks. Each child draws the same tensors, and exits with 0 if they
# are right. A child that waits for a lock for ever is killed.
_FORKING = """
import hashlib, os, threading, warnings
from weightwell_engine.engine import Engine
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_document

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads
SPECS = [
    b'{"shape": [512, 512], "scheme": "normal"}',
    b'{"shape": [100, 90], "scheme": "orthogonal"}',
    b'{"shape": [400, 300], "scheme": "sparse", "sparsity": 0.5}',
]

def draw(engine, spec):
    file = engine.open(engine.plan(read_document(spec)))
    try:
        return hashlib.sha256(file.read(0, file.nbytes)).hexdigest()
    finally:
        file.close()

def child(expected):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            engine = Engine(Cpu(), threads=1)
            os._exit(0 if [draw(engine, spec) for spec in SPECS] == expected else 1)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(2)
    os.close(write)
    import select, signal
    ended = select.select([read], [], [], 60)[0]  # the write end is closed when the child ends
    os.close(read)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

_DRAWING = """
expected = [draw(Engine(Cpu(), threads=1), spec) for spec in SPECS]
engine, done, started = Engine(Cpu(), threads=2), threading.Event(), threading.Barrier(3)
def work():
    started.wait()
    while not done.is_set():
        for spec in SPECS:
            draw(engine, spec)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
started.wait()
codes = [child(expected) for _ in range(20)]
done.set()
for thread in threads:
    thread.join()
assert codes == [0] * 20, codes
"""


_COMPILING = """
expected = [draw(Engine(Cpu(), threads=1), spec) for spec in SPECS]
from weightwell_engine.generators.philox.cpu.compiling import entry
started = threading.Event()
def work():
    for _ in range(6):
        def fresh(x):
            return 2 * x
        kernel = entry(fresh)
        kernel._cache.load_overload = lambda *_: None
        started.set()
        kernel(21.0)
thread = threading.Thread(target=work)
thread.start()
started.wait()
codes = [child(expected) for _ in range(5)]
thread.join()
assert codes == [0] * 5, codes
"""

# A thread imports Numba and loads the first kernels of the process while the main thread forks. Before, a small tensor
# is drawn: Python itself does not let a child import a module that a thread of its parent was importing.
_LOADING = """
draw(Engine(Cpu(), threads=1), b'{"shape": [8], "scheme": "normal"}')
started, parent = threading.Event(), []
def work():
    started.set()
    parent.extend(draw(Engine(Cpu(), threads=1), spec) for spec in SPECS)
thread = threading.Thread(target=work)
thread.start()
started.wait()
codes = [child(EXPECTED) for _ in range(4)]
thread.join()
assert parent == EXPECTED
assert codes == [0] * 4, codes
"""


def _run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("work", [_DRAWING, _COMPILING], ids=["draw", "compile"])
def test_a_child_draws_right_numbers_while_threads_of_its_parent(work: str) -> None:
    done = _run(_FORKING + work)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_child_draws_right_numbers_while_a_thread_of_its_parent_loads_the_kernels() -> None:
    said = _run(_FORKING + "print([draw(Engine(Cpu(), threads=1), spec) for spec in SPECS])")
    done = _run(f"{_FORKING}\nEXPECTED = {said.stdout}\n{_LOADING}")
    assert done.returncode == 0, done.stderr


def test_a_fork_waits_for_a_protected_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = RLock()
    monkeypatch.setattr(forks, "_locks", [lock])
    taken, given = Event(), Event()

    def hold() -> None:
        with lock:
            taken.set()
            given.wait()

    holder = Thread(target=hold)
    holder.start()
    taken.wait()
    forking = Thread(target=forks._acquire)
    forking.start()
    assert not lock.acquire(blocking=False)
    assert forking.is_alive()
    given.set()
    holder.join()
    forking.join()
    assert forks._held == [lock]
    forks._held.clear()


def _in_child(function: Callable[[], bytes]) -> bytes:
    """Return what a function returns in a child of a fork."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, function())
        finally:
            os._exit(0)
    os.close(write)
    assert select.select([read], [], [], 60)[0]
    answer = os.read(read, 100)
    os.close(read)
    os.waitpid(pid, 0)
    return answer


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_does_not_write_into_the_buffers_of_its_parent() -> None:
    buffers = Buffers(kept=2**20)
    mine = buffers.lend(2**17)
    mine[:5] = b"right"

    def overwrite() -> bytes:
        mine[:5] = b"wrong"
        return bytes(mine[:5])

    assert _in_child(overwrite) == b"wrong"
    assert bytes(mine[:5]) == b"right"
    assert Cpu.allocate(2**17).nbytes == 2**17
