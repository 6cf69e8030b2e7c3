"""Verification of the generator that takes too long for the tests. docs/generator.md has the figures.

    python -m benchmarks.verify [map] [casts] [statistics] [dieharder]

* map: compares the float32 normal of every input with float64
* casts: compares the cast of every float32 to every narrow dtype with torch
* statistics: draws 2^30 normals and tests their distribution
* dieharder: pipes words into the program of this name (most of an hour). The words are chained in the ways that could
  reveal a fault in this layout of keys and counters.

The exit status is 1 if a part fails.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from tempfile import TemporaryFile
from typing import IO, Any, cast

import numpy as np
import torch
from numba import njit
from scipy import stats
from scipy.special import ndtri

from weightwell_engine.dtypes import DTYPES
from weightwell_engine.generators.philox.cpu import narrow
from weightwell_engine.generators.philox.cpu.checked import prepare
from weightwell_engine.generators.philox.cpu.simd import operation
from weightwell_engine.generators.philox.cpu.singles import normal
from weightwell_engine.generators.philox.cpu.words import LANES, Run, fill_words, scratch, write_all
from weightwell_engine.generators.philox.specification.keys import Key, derive_key
from weightwell_engine.generators.philox.specification.keys import Stream as Purpose
from weightwell_engine.generators.philox.specification.quantile import TAIL_BOUND, Singles
from weightwell_engine.generators.philox.specification.words import Words
from weightwell_engine.laws import Normal
from weightwell_engine.regions import Runs

CHUNK = 1 << 22


@operation
def _write_normals(words: Any, at: Any, values: Any) -> None:
    variates, unit = normal(words.load(at, LANES))
    values.store(at, variates * unit)


@njit(nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _normals(words: Any, values: Any) -> None:
    for at in range(0, words.size, LANES):
        _write_normals(words, at, values)


def verify_map() -> bool:
    """Compare the float32 normal of every word with float64. The map does not use the last bit of a word."""
    worst: dict[str, tuple[float, float]] = {"centre": (0.0, 0.0), "tail": (0.0, 0.0)}
    squares, symmetric, steps, before = 0.0, True, 0, 0.0
    for start in range(1 << 31, 1 << 32, 2 * CHUNK):
        words = np.arange(start, start + 2 * CHUNK, 2, dtype=np.uint32)
        values, mirrored = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
        _normals(words, values)
        _normals(~words, mirrored)
        symmetric &= bool(np.array_equal(values, -mirrored))
        steps += int(np.count_nonzero(np.diff(values, prepend=before) < 0))
        before = float(values[-1])
        rest = (1 << 32) - (words | np.uint32(1)).astype(np.int64)
        exact = -ndtri(rest * 2.0**-32)
        errors = np.abs(values - exact) / np.spacing(exact.astype(np.float32))
        squares += float(np.sum(errors**2))
        for part, of_part in (("centre", rest >= TAIL_BOUND), ("tail", rest < TAIL_BOUND)):
            if of_part.any():
                at = int(np.argmax(np.where(of_part, errors, 0)))
                worst[part] = max(worst[part], (float(errors[at]), float(exact[at])))
    print("map: all 2^31 inputs against scipy.special.ndtri in float64")
    for part, (error, place) in worst.items():
        print(f"  largest error in the {part}: {error:.2f} ulp, at z = {place:.4f}")
    print(f"  root mean square error: {math.sqrt(squares / 2**30):.3f} ulp")
    print(f"  largest draw: {before:.4f}; odd: {symmetric}; steps down: {steps} of {2**30}")
    return symmetric and max(error for error, _ in worst.values()) <= 6


def verify_casts() -> bool:
    """Compare the casts to narrow dtypes with torch's casts, for every float32 in their range."""
    sound = True
    for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
        dtype, wrong, compared = DTYPES[name], 0, 0
        for start in range(0, 1 << 32, CHUNK):
            values = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
            values = values[np.abs(values) <= dtype.max]
            if not values.size:
                continue
            ours = narrow.encode(values, dtype)
            theirs = torch.from_numpy(values).to(getattr(torch, name)).view(torch.uint8).numpy().view(ours.dtype)
            wrong += int(np.count_nonzero(ours != theirs))
            compared += values.size
        print(f"casts: {name}: {wrong} of {compared} differ from torch's")
        sound &= not wrong
    return sound


def verify_statistics(draws: int = 1 << 30) -> bool:
    """Draw standard normals, and test their moments, tails, distribution and correlations."""
    return all([_verify_moments(draws), _verify_kolmogorov_smirnov(), _verify_correlations()])


def _verify_moments(draws: int) -> bool:
    powers, tails = np.zeros(6), dict.fromkeys((3.0, 4.0, 5.0, 5.5), 0)
    for first in range(0, draws, CHUNK):
        z = _sample("moments", first, CHUNK).astype(np.float64)
        powers += [np.sum(z**power) for power in range(1, 7)]
        for bound in tails:
            tails[bound] += int(np.count_nonzero(np.abs(z) > bound))
    print(f"statistics: {draws} standard normals, deviations in standard errors")
    scores: list[float] = []
    for power, total in enumerate(powers.tolist(), start=1):
        mean, fourth = _normal_moment(power), _normal_moment(2 * power)
        scores.append((total / draws - mean) / math.sqrt((fourth - mean**2) / draws))
        print(f"  moment {power}: {total / draws:+.7f}, expected {mean}: {scores[-1]:+.2f}")
    for bound, beyond in tails.items():
        expected = draws * math.erfc(bound / math.sqrt(2))
        scores.append((beyond - expected) / math.sqrt(expected))
        print(f"  beyond {bound} sigma: {beyond}, expected {expected:.1f}: {scores[-1]:+.2f}")
    return max(map(abs, scores)) < 4.5


def _normal_moment(power: int) -> int:
    return math.prod(range(1, power, 2)) if power % 2 == 0 else 0


def _verify_kolmogorov_smirnov() -> bool:
    p_values = [stats.kstest(_sample(f"ks.{i}", 0, 1 << 21), "norm").pvalue for i in range(20)]
    spread = stats.kstest(p_values, "uniform").pvalue
    span = f"{min(p_values):.3f} to {max(p_values):.3f}"
    print(f"  Kolmogorov-Smirnov, 20 tensors of 2^21: p from {span}, themselves uniform with p = {spread:.3f}")
    return bool(min(p_values) > 1e-4 and spread > 1e-4)


def _verify_correlations(size: int = 1 << 26) -> bool:
    base = _sample("correlations", 0, size)
    pairs: dict[str, tuple[Singles, Singles]] = {
        f"neighbours at distance {lag}": (base[:-lag], base[lag:]) for lag in (1, 2, 3, 4, 64, 4096)
    }
    pairs["the next seed"] = base, _sample("correlations", 0, size, seed=1)
    pairs["the seed 2^32 on"] = base, _sample("correlations", 0, size, seed=1 << 32)
    pairs["another name"] = base, _sample("correlationt", 0, size)
    pairs["far indices"] = base, _sample("correlations", 1 << 34, size)
    scores = []
    for what, (left, right) in pairs.items():
        scores.append(float(np.mean(left * right, dtype=np.float64)) * math.sqrt(left.size))
        scores.append(float(np.mean((left**2 - 1) * (right**2 - 1), dtype=np.float64)) / 2 * math.sqrt(left.size))
        print(f"  correlation with {what}: {scores[-2]:+.2f}; of the squares: {scores[-1]:+.2f} standard errors")
    return max(map(abs, scores)) < 4.5


def _sample(name: str, first: int, size: int, seed: int = 0) -> Singles:
    values = np.empty(size, np.float32)
    prepare(Normal(0.0, 1.0), DTYPES["float32"], seed, name).fill(Runs(first, size, 0, 1), values.data.cast("B"))
    return values


# The tests of dieharder's whole battery (-a), by number, with their n-tuples. The battery omits test 14, which is known
# to be wrong, and so does this table. Each test uses a fifth of the battery's p-values. With all of them, the battery
# would take many hours, most of them for the lagged sums.
BATTERY = {
    **dict.fromkeys((*range(14), 15, 16, 17, 100, 101, 102, 204, 205, 206, 207, 208, 209), (0,)),
    200: tuple(range(1, 13)),
    201: tuple(range(2, 6)),
    202: tuple(range(2, 6)),
    203: tuple(range(33)),
}
P_VALUES = 20

Stream = Iterator[Words]


def verify_dieharder() -> bool:
    """Pipe words, chained in three ways, through dieharder's tests.

    Every test reads a separate, endless stream, so its verdict is the same in every run. With so few p-values,
    dieharder reports many results as too good to be true. dieharder's own AES generator runs first, with a new seed for
    each run, and shows the usual number of such results.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            _battery("its own AES generator, for comparison", None, threads)
            sound = [_battery(what, stream, threads) for what, stream in STREAMS.items()]
        finally:
            threads.shutdown(cancel_futures=True)
    return all(sound)


def _battery(what: str, stream: Callable[[int], Stream] | None, threads: Executor) -> bool:
    """Run the whole battery and print the results; return whether every test finished and no test failed."""
    tests = [(test, ntuple) for test, ntuples in BATTERY.items() for ntuple in ntuples]
    runs = [threads.submit(_dieharder, *test, stream and stream(place)) for place, test in enumerate(tests)]
    verdicts = [run.result() for run in runs]
    lines = [line for found in verdicts for line in found]
    counts = {verdict: sum(verdict in line for line in lines) for verdict in ("PASSED", "WEAK", "FAILED")}
    silent = [test for test, found in zip(tests, verdicts, strict=True) if not found]
    print(f"dieharder, {what}: {counts}" + (f"; no verdict from {silent}" if silent else ""))
    print("".join(line for line in lines if "WEAK" in line or "FAILED" in line), end="", flush=True)
    return not silent and not counts["FAILED"]


_AES, _STDIN = 205, 200  # dieharder's numbers of these generators


def _dieharder(test: int, ntuple: int, stream: Stream | None) -> list[str]:
    """Run one test of dieharder on a stream, or on its own generator; return its result lines."""
    generator = _STDIN if stream else _AES
    options = {"-g": generator, "-d": test, "-n": ntuple, "-p": P_VALUES, "-k": 2}
    command = ["dieharder", *(str(word) for option in options.items() for word in option)]
    with TemporaryFile("w+") as said:
        with suppress(BrokenPipeError), subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said) as running:
            for block in stream or ():
                cast(IO[bytes], running.stdin).write(block.data)
        said.seek(0)
        return [line for line in said if line.count("|") == 5 and "p-value" not in line]


_EACH = 256  # words from one key before the next key
_CHAINED = 1024  # keys whose words are written together


def _tensors(place: int) -> Stream:
    return _chained(derive_key(place, f"model.layers.{layer}.weight", Purpose.DATA) for layer in count())


def _seeds(place: int) -> Stream:
    return _chained(derive_key(seed, "weight", Purpose.DATA) for seed in count(place << 32))


def _columns(place: int) -> Stream:
    for seed in count(place << 32):
        for column in range(4096):
            words = np.empty(1 << 20, np.uint32)
            fill_words(derive_key(seed, "weight", Purpose.DATA), Run(column, 1, 4096, words.size), words)
            yield words


def _chained(keys: Iterator[Key]) -> Stream:
    while True:
        words = np.empty(_EACH * _CHAINED, np.uint32)
        _fill_each(np.array([next(keys) for _ in range(_CHAINED)]), words, scratch())
        yield words


@njit(nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
def _fill_each(keys: Any, words: Any, memory: Any) -> None:
    for i in range(len(keys)):
        key = Key(keys[i, 0], keys[i, 1], keys[i, 2], keys[i, 3])
        write_all(key, Run(0, _EACH, 0, 1), words[i * _EACH : (i + 1) * _EACH], memory)


STREAMS: dict[str, Callable[[int], Stream]] = {
    "one tensor after the other, 256 words of each": _tensors,
    "one seed after the other, 256 words of each": _seeds,
    "a matrix of 4096 columns, column by column": _columns,
}

PARTS: dict[str, Callable[[], bool]] = {
    "map": verify_map,
    "casts": verify_casts,
    "statistics": verify_statistics,
    "dieharder": verify_dieharder,
}


def main(wanted: list[str]) -> int:
    """Run the parts in ``wanted``, or all parts; return the exit status."""
    unsound = [part for part in wanted or PARTS if not PARTS[part]()]
    print("failed: " + ", ".join(unsound) if unsound else "all checks passed")
    return 1 if unsound else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
