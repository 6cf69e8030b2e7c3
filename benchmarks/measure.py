"""Side-by-side measurements: contenders take turns, so a slowdown of the machine affects all of them equally."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Run every contender once in each round, after one warm-up round; return the median figure of each contender."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            gc.collect()
            figure = run()
            if turn:
                figures[name].append(figure)
    return {name: median(found) for name, found in figures.items()}


def seconds(run: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table as Markdown, in the format of docs/performance.md."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    print(f"\n{title}\n")
    for line in lines:
        print("| " + " | ".join(line) + " |")
