"""Theory of signals against measurement: every activation function and every normalization that has a theory.

    python -m benchmarks.theory [seeds]

The stack has 1024 inputs, a layer of width 4096 and a layer of width 512, so that the activation function and the
normalization are averaged over 4096 units. Both layers are measured for several seeds, and each number is compared with
its prediction. The distance is counted in standard errors: the standard deviation over the seeds, divided by the root
of their number. A few seeds estimate a standard deviation badly, so distances are converted from Student's distribution
to the normal one. By chance, 0.27 % of the comparisons are above 3.

Theory is that of an infinite width. With n inputs, the variance of a pre-activation differs from one example to another
by the relative standard deviation sqrt(2 / n), so a prediction is off by the order of 1 / n, here 0.001. The standard
errors are 0.003 and more of the values. Only functions of a large curvature, such as tanhshrink, show the finite width.

Prints a table for docs/signal.md: the largest distance of each activation function and normalization. The exit status
is 1 if more than 1 % of all distances are above 3, or one is above 5.
"""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy import stats

from benchmarks.measure import table
from weightwell_engine.engine import Engine
from weightwell_engine.generators.devices import Cpu
from weightwell_engine.parsing import read_signal
from weightwell_engine.quadrature import ACTIVATIONS
from weightwell_engine.signal import measurement
from weightwell_engine.signal.answer import LayerSignal

SEEDS = 16
NORMALIZATIONS = ("none", "layer", "rms", "group")

FIELDS: dict[str, Any] = {
    "scheme": "kaiming_normal",
    "bias": "normal",
    "bias_std": 0.2,
    "norm_groups": 2,
}
WIDTHS = (4096, 512)


@contextmanager
def drawn_once() -> Iterator[None]:
    """Draw the weights of a seed once for all stacks, which differ in what they do with them."""
    kept: dict[str, torch.Tensor] = {}
    draw = measurement._Network._drawn

    def kept_or_drawn(network: Any, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name not in kept:
            kept[name] = draw(network, name, shape)
        return kept[name]

    with patch.object(measurement._Network, "_drawn", kept_or_drawn):
        yield


def numbers(layer: LayerSignal) -> dict[str, tuple[float | None, float | None]]:
    """Return what is measured of a layer, and its predictions."""
    theory = layer.theory
    return {
        "q": (layer.q, theory.q),
        "correlation": (layer.correlation, theory.correlation),
        "mean": (layer.forward.mean, theory.mean),
        "rms": (layer.forward.rms, theory.rms),
        "backward": (layer.backward.rms, theory.backward_rms),
    }


def layers_of(engine: Engine, seeds: list[int], **fields: Any) -> tuple[LayerSignal, ...]:
    """Return the layers of a signal."""
    layers = [{**FIELDS, **fields, "width": width} for width in WIDTHS]
    steps = measurement.measure(
        read_signal({"layers": layers, "input_width": 1024, "batch": 8, "seeds": seeds}), engine
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: tuple[LayerSignal, ...] = end.value.layers
            return found


Case = tuple[str, str]


def distances(engine: Engine, cases: Iterable[Case], seeds: int) -> dict[Case, dict[str, float]]:
    """Return the distances between theory and measurement, in standard errors, by case and by number.

    A case is an activation function and a normalization.
    """
    cases = list(cases)
    measured: dict[Case, list[list[float]]] = {case: [] for case in cases}
    predicted: dict[Case, dict[str, float]] = {}
    for seed in range(seeds):
        with drawn_once():
            for case in cases:
                layers = layers_of(engine, [seed], activation=case[0], normalization=case[1])
                found = {
                    f"{name} of layer {layer.layer}": pair
                    for layer in layers
                    for name, pair in numbers(layer).items()
                    if pair[1] is not None and not (name == "backward" and layer.layer == len(layers))
                }
                measured[case].append([value if value is not None else math.nan for value, _ in found.values()])
                predicted[case] = {name: theory or 0.0 for name, (_, theory) in found.items()}
    return {
        case: dict(zip(predicted[case], _normal(np.array(rows), list(predicted[case].values())), strict=True))
        for case, rows in measured.items()
    }


def _normal(rows: np.ndarray[Any, Any], theory: list[float]) -> list[float]:
    """Return the distances of the means of the columns of an array (seeds, numbers) from theory, as normal ones."""
    count = len(rows)
    away = np.abs(rows.mean(axis=0) - theory)
    errors = rows.std(axis=0, ddof=1) / math.sqrt(count)
    t = np.divide(away, errors, out=np.where(away < 1e-6, 0.0, np.inf), where=errors > 1e-12)
    return [float(each) for each in stats.norm.isf(stats.t.sf(t, count - 1))]


def main(seeds: int) -> int:
    """Print the table, and return the exit status."""
    engine = Engine(Cpu(), threads=2)
    found = distances(engine, [(name, norm) for name in ACTIVATIONS for norm in NORMALIZATIONS], seeds)
    rows = [
        (f"`{name}`", *(f"{max(found[name, norm].values()):.1f}" for norm in NORMALIZATIONS)) for name in ACTIVATIONS
    ]
    table(f"The largest distance in standard errors, {seeds} seeds", ("activation", *NORMALIZATIONS), tuple(rows))
    every = [each for case in found.values() for each in case.values()]
    beyond = sum(each > 3.0 for each in every)
    print(f"\n{len(every)} comparisons, {beyond} beyond 3 ({beyond / len(every):.2%}); the largest is {max(every):.2f}")
    for case, numbers_ in found.items():
        print(*(f"{case}: {name} {each:.2f}" for name, each in numbers_.items() if each > 3.0), sep="\n", end="")
    return int(beyond > 0.01 * len(every) or max(every) > 5.0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SEEDS))
