"""Orthogonal matrices, compared with torch.nn.init.orthogonal_.

    python -m benchmarks.orthogonal

All methods get the same normals, so only the linear algebra is compared:

* qr: the method of torch after it has drawn the normals (QR, and the signs)
* orgqr: LAPACK multiplies out the same reflectors as haar; no QR, but the bits depend on the machine
* haar: Weightwell multiplies out the reflectors in one fixed order

Prints the times, and the largest element of Q'Q - I.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import interleave, seconds, table
from weightwell_engine.generators.philox.cpu.orthogonal import haar

Matrix = NDArray[np.floating[Any]]

SHAPES = [(64, 64), (256, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 4096), (2048, 512), (512, 2048)]


def qr(normals: Tensor) -> Tensor:
    """Return the matrix that ``torch.nn.init.orthogonal_`` computes from its normals."""
    q, r = torch.linalg.qr(tall(normals))
    return like(normals, q.mul_(r.diag().sign()))


def orgqr(normals: Tensor) -> Tensor:
    """Multiply out the same reflectors with LAPACK."""
    x = tall(normals)
    heads, norms = x.diagonal().double(), x.double().tril().square().sum(0).sqrt()
    first = heads + norms.copysign(heads)
    v, tau = x.tril(-1) / first, first.abs() / norms
    q = torch.linalg.householder_product(v.to(x.dtype), tau.to(x.dtype))
    return like(normals, q.mul_(-heads.sign().to(q.dtype)))


def tall(matrix: Tensor) -> Tensor:
    """Return the matrix, or its transpose if it has more columns than rows."""
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.t()


def like(matrix: Tensor, q: Tensor) -> Tensor:
    """Undo ``tall``."""
    return q if matrix.shape == q.shape else q.t().contiguous()


def defect(q: Matrix) -> float:
    """Return the largest absolute value of an element of ``Q'Q - I``, computed in float64 for every dtype."""
    exact = tall(torch.from_numpy(q)).double()
    return float((exact.t() @ exact - torch.eye(exact.shape[1])).abs().max())


def compare(shape: tuple[int, int], dtype: str, threads: int, rounds: int) -> tuple[str, ...]:
    """Measure one shape; return its row of the table."""
    normals = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    tensor = torch.from_numpy(normals)
    with ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None
        contenders: dict[str, Callable[[], Matrix]] = {
            "qr": lambda: qr(tensor).numpy(),
            "orgqr": lambda: orgqr(tensor).numpy(),
            "haar": lambda: haar(normals, executor=executor),
        }
        times = interleave({name: partial(seconds, contender) for name, contender in contenders.items()}, rounds)
        defects = {name: defect(contender()) for name, contender in contenders.items()}
    return (
        " x ".join(map(str, shape)),
        dtype,
        str(threads),
        *(f"{1e3 * times[name]:.3g} ms" for name in contenders),
        f"{times['qr'] / times['haar']:.1f}",
        *(f"{defects[name]:.1e}" for name in contenders),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads, for all methods")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--largest", type=int, default=4096, help="skip matrices with more rows or columns than this")
    options = parser.parse_args(arguments)
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for dtype in options.dtypes:
            shapes = [shape for shape in SHAPES if max(shape) <= options.largest]
            rows += [compare(shape, dtype, threads, options.rounds) for shape in shapes]
    columns = (
        "shape",
        "dtype",
        "threads",
        "QR",
        "orgqr",
        "haar",
        "QR / haar",
        "QR defect",
        "orgqr defect",
        "haar defect",
    )
    table("Orthogonal matrices, from the same normals", columns, rows)


if __name__ == "__main__":
    main()
