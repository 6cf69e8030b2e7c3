"""The service on a GPU, compared with torch on the same GPU, memory bandwidth, a pinned copy, and a plain socket.

    python -m benchmarks.cuda [--gpu cuda:0] [--scale 1.0]

Prints three tables:

* elements a second on the GPU, compared with torch.nn.init and with a fill of the same memory
* matrices
* bytes a second from the GPU to a client in another process
"""

import argparse
import importlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch

from benchmarks.http import running
from benchmarks.measure import interleave, seconds, table
from weightwell_engine.dtypes import DTYPES
from weightwell_engine.exceptions import DeviceUnavailable
from weightwell_engine.generators.factory import find_device
from weightwell_engine.generators.gpu import Gpu
from weightwell_engine.generators.philox import cuda
from weightwell_engine.generators.philox.cuda.generator import CudaDrawing, CudaPhiloxGenerator
from weightwell_engine.laws import Constant, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from weightwell_engine.plan import Piece, PlannedTensor
from weightwell_engine.regions import Region, Runs

ROUNDS = 7
REPEATS = 4
GIB = 2**30
SIDE = 4096

Fill = Callable[[torch.Tensor], object]

# Downloads a file as fast as Python can and discards it. Prints the seconds and the number of bytes.
READER = """
import socket, sys, time
host, port, path = sys.argv[1:]
buffer, received = bytearray(2**22), 0
start = time.perf_counter()
with socket.create_connection((host, int(port))) as connection:
    connection.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    while count := connection.recv_into(buffer):
        received += count
print(time.perf_counter() - start, received)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A law in a dtype. ``torch`` draws the same with torch, and is ``None`` if torch cannot."""

    name: str
    law: Law
    dtype: str
    torch: Fill | None


def _normal(tensor: torch.Tensor) -> object:
    return torch.nn.init.normal_(tensor, 0.0, 0.02)


def _uniform(tensor: torch.Tensor) -> object:
    return torch.nn.init.uniform_(tensor, -0.1, 0.1)


CASES = (
    Case("constant", Constant(0.5), "float32", lambda tensor: torch.nn.init.constant_(tensor, 0.5)),
    Case("uniform", Uniform(-0.1, 0.1), "float32", _uniform),
    Case("normal", Normal(0.0, 0.02), "float32", _normal),
    Case("trunc_normal", TruncatedNormal(0.0, 1.0, -2.0, 2.0), "float32", torch.nn.init.trunc_normal_),
    Case("uniform", Uniform(-0.1, 0.1), "bfloat16", _uniform),
    Case("normal", Normal(0.0, 0.02), "bfloat16", _normal),
    Case("normal", Normal(0.0, 0.02), "float8_e4m3fn", None),
    Case("normal", Normal(0.0, 0.02), "float64", _normal),
)


def matrices(side: int) -> tuple[Case, ...]:
    """Return the matrices. Each is prepared again for every measurement, since preparing is most of the work."""
    return (
        Case("orthogonal", Orthogonal(side, side, 1.0), "float32", torch.nn.init.orthogonal_),
        Case("orthogonal", Orthogonal(side, side, 1.0), "float64", torch.nn.init.orthogonal_),
        Case(
            "sparse, 10% zeros",
            Sparse(side, side, -(-side // 10), 0.01),
            "float32",
            lambda tensor: torch.nn.init.sparse_(tensor, 0.1),
        ),
    )


def on_card(run: Callable[[], object]) -> float:
    """Return the seconds for which a call keeps the GPU busy: the average of a few calls that are queued together.

    The GPU executes one call while Python prepares the next. So the time of Python counts only if it is the longer one.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(REPEATS):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / REPEATS


def elements(case: Case, gpu: Gpu, nbytes: int) -> tuple[str, ...]:
    """Measure one elementwise law; return its row of the table."""
    dtype = DTYPES[case.dtype]
    size = nbytes // dtype.itemsize
    tensor = torch.empty(size, dtype=getattr(torch, case.dtype), device=gpu.place)
    out = tensor.view(torch.uint8)
    prepared = cuda.prepare(case.law, dtype, 0, "weight", gpu.place)
    contenders: dict[str, Callable[[], float]] = {
        "philox": lambda: on_card(lambda: cuda.fill([(prepared, Runs(0, size, 0, 1), 0)], out)),
        "memory": lambda: on_card(lambda: out.fill_(1)),
    }
    if fill := case.torch:
        contenders["torch"] = lambda: on_card(lambda: fill(tensor))
    times = interleave(contenders, ROUNDS)
    theirs = times.get("torch")
    return (
        f"{case.name}, {case.dtype}",
        f"{size / theirs / 1e9:.0f}" if theirs else "-",
        f"{size / times['philox'] / 1e9:.0f}",
        f"{theirs / times['philox']:.2f}x" if theirs else "-",
        f"{nbytes / times['philox'] / 1e9:.0f}",
        f"{times['memory'] / times['philox']:.2f}",
    )


def matrix(case: Case, gpu: Gpu, side: int) -> tuple[str, ...]:
    """Measure one matrix, including its preparation; return its row of the table."""
    dtype = DTYPES[case.dtype]
    tensor = torch.empty(side, side, dtype=getattr(torch, case.dtype), device=gpu.place)
    out = tensor.view(torch.uint8).view(-1)

    def draw() -> None:
        prepared = cuda.prepare(case.law, dtype, 0, "weight", gpu.place)
        cuda.fill([(prepared, Runs(0, side * side, 0, 1), 0)], out)
        torch.cuda.synchronize(gpu.place)  # keep `prepared` alive until the GPU has used it

    def draw_with_torch(fill: Fill) -> None:
        fill(tensor)
        torch.cuda.synchronize(gpu.place)

    fill = case.torch or _normal
    times = interleave({"philox": lambda: seconds(draw), "torch": lambda: seconds(lambda: draw_with_torch(fill))}, 3)
    return (
        f"{case.name}, {case.dtype}",
        f"{times['torch'] * 1e3:.1f}",
        f"{times['philox'] * 1e3:.1f}",
        f"{times['torch'] / times['philox']:.1f}x",
    )


# From the GPU to a client --------------------------------------------------------------------------------------------


def copying(gpu: Gpu, nbytes: int) -> float:
    """Copy ``nbytes`` bytes from the GPU to pinned memory, chunk by chunk; return the seconds."""
    source = torch.zeros(gpu.chunk, dtype=torch.uint8, device=gpu.place)
    target = torch.empty(gpu.chunk, dtype=torch.uint8, pin_memory=True)
    return on_card(lambda: [target.copy_(source, non_blocking=True) for _ in range(nbytes // gpu.chunk)])


def drawing(gpu: Gpu, nbytes: int) -> float:
    """Draw ``nbytes`` bytes of normals and copy them to pinned memory, as the service does; return the seconds."""
    tensor = PlannedTensor("weight", 0, DTYPES["float32"], Normal(0.0, 0.02), Region.whole((nbytes // 4,)), 0)
    size = gpu.chunk // 4
    with closing(CudaDrawing(gpu)) as opened, ThreadPoolExecutor(CudaPhiloxGenerator.concurrency) as threads:

        def chunk(number: int) -> int:
            out = gpu.allocate(gpu.chunk)
            opened.fill([Piece(tensor, number * size, (number + 1) * size)], out)
            return len(out)

        return seconds(lambda: sum(threads.map(chunk, range(nbytes // gpu.chunk))))


def reading(port: int, path: str, nbytes: int) -> float:
    """Read a file in another process; return the seconds that it took."""
    command = [sys.executable, "-c", READER, "127.0.0.1", str(port), path]
    took, received = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if int(received) < nbytes:
        raise RuntimeError(f"{path} gave {received} bytes, expected at least {nbytes}")
    return float(took)


@contextmanager
def plain_socket(gpu: Gpu, nbytes: int) -> Iterator[int]:
    """Send ``nbytes`` bytes of pinned memory to every client that connects; yield the port."""
    memory = gpu.allocate(gpu.chunk)

    def send(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.recv(2**16)
                for _ in range(nbytes // gpu.chunk):
                    connection.sendall(memory)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=send, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def pipeline(gpu: Gpu, nbytes: int) -> list[tuple[str, ...]]:
    """Measure each step from the GPU to a client, and all steps together; return the rows of the table."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rows = nbytes // 4 // SIDE
    normals, constants = (f"/init?shape={rows},{SIDE}&scheme={scheme}" for scheme in ("normal", "ones"))
    service = [sys.executable, "-m", "weightwell_service", "--port", str(port), "--max-bytes", str(2 * nbytes)]
    with plain_socket(gpu, nbytes) as plain, running([*service, "--device", str(gpu.place)], port):
        times = interleave(
            {
                "a pinned copy": lambda: copying(gpu, nbytes),
                "float32 normals, drawn and copied": lambda: drawing(gpu, nbytes),
                "a plain socket": lambda: reading(plain, "/", nbytes),
                "float32 normals from the service": lambda: reading(port, normals, nbytes),
                "ones from the service": lambda: reading(port, constants, nbytes),
            },
            3,
        )
    return [(way, f"{nbytes / time / 1e9:.2f}") for way, time in times.items()]


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="cuda:0", help="device to measure")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full sizes, for a quick look")
    arguments = parser.parse_args()
    try:
        gpu = find_device(arguments.gpu)
    except DeviceUnavailable as error:
        sys.exit(f"nothing was measured: {error}")
    if not isinstance(gpu, Gpu):
        sys.exit(f"{gpu} is not a GPU; name one with --gpu, such as cuda:0")
    torch.cuda.set_device(gpu.place)
    CudaPhiloxGenerator(gpu).warm_up()
    print(f"{gpu}, torch {torch.__version__}, {ROUNDS} rounds")
    nbytes = int(4 * GIB * arguments.scale) // gpu.chunk * gpu.chunk
    heads = ("law", "torch, G/s", "philox, G/s", "ratio", "GB/s", "of a memory fill")
    table("Billions (10^9) of elements a second", heads, [elements(case, gpu, nbytes) for case in CASES])
    rows = [matrix(case, gpu, SIDE) for case in matrices(SIDE)]
    table(f"Matrices of {SIDE} x {SIDE}, whole", ("law", "torch, ms", "philox, ms", "ratio"), rows)
    try:
        importlib.import_module("weightwell_service.app")
    except ModuleNotFoundError as error:
        sys.exit(f"\nThe third table was not measured: the service cannot start here. {error}")
    table(f"{nbytes // 2**20} MiB from the GPU to a client", ("way", "GB/s"), pipeline(gpu, nbytes))


if __name__ == "__main__":
    main()
