"""Streams: the random streams that a client has used. It warns if another tensor uses the same stream.

The seed and the name of a tensor select its random numbers; shape and scheme do not matter. So two layers with the same
seed and name are correlated. This is by design, and usually a mistake of the caller.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any
from weakref import ref

from weightwell.cautions import RepeatedStreamWarning, caution

# Schemes that draw nothing at random.
FIXED = frozenset({"constant", "ones", "zeros", "eye", "identity", "dirac", "values"})

# Fields of a tensor that are no parameters of its scheme.
_NO_PARAMETERS = frozenset({"shape", "scheme", "dtype", "seed", "slice", "parts"})

# The number of latest streams that a client remembers; they take a few megabytes.
REMEMBERED = 2**14

# A seed and a name; only a seed with generator=torch.
Stream = tuple[int | str, str | None]

_CURE = (
    "Give each tensor a name=, each module a prefix=, or each its own seed=. If these numbers are intended, ignore "
    "weightwell.RepeatedStreamWarning"
)


@dataclass(frozen=True, slots=True)
class Draw:
    """One use of a stream: the shape, the scheme as text, and the module that was filled, if any.

    ``layer`` is True if the module is a layer of torch, such as a Linear.
    """

    shape: tuple[int, ...]
    law: str
    module: "ref[Any] | None" = None
    layer: bool = False

    def __str__(self) -> str:
        return f"{self.law} of shape {list(self.shape)}"

    def allows(self, other: "Draw") -> bool:
        """Whether another draw from the same stream does no harm."""
        before, after = (draw.module and draw.module() for draw in (self, other))
        if self.module is not None and before in (None, after):
            return True  # the earlier numbers are gone: the module was filled again or deleted
        if self.layer and other.layer:
            return False  # equal layers are suspicious; equal models may be replicas
        return (self.shape, self.law) == (other.shape, other.law)


class Streams:
    """The streams that a client has used. It warns once. Several threads may use it.

    A copied or unpickled object is empty.
    """

    def __init__(self) -> None:
        self._drawn: dict[object, Draw] = {}
        self._lock, self._process = Lock(), os.getpid()
        self._warned = False

    def __reduce__(self) -> tuple[type["Streams"], tuple[()]]:
        return Streams, ()

    @property
    def watching(self) -> bool:
        """Whether the warning has not been given yet."""
        return not self._warned

    def note(self, spec: Mapping[str, Any], module: Any = None, *, layer: bool = False) -> None:
        """Record the streams of a spec from a file's metadata; warn if another tensor has used one of them.

        ``module`` is the module that was filled, if any. ``layer`` is True if it is a layer of torch.
        """
        if self._process != os.getpid():  # a thread of the parent may have held the lock when this process was forked
            self._lock, self._process = Lock(), os.getpid()
        with self._lock:
            text = None if self._warned else self._noted(_draws(spec, module, layer))
            if text:
                self._warned = True
                self._drawn.clear()
        if text:
            caution(RepeatedStreamWarning, f"{text}. {_CURE}")

    def _noted(self, draws: Iterable[tuple[Stream, Draw]]) -> str | None:
        """Remember draws; return the warning for the first repeated stream, or None."""
        for stream, draw in draws:
            before = self._drawn.pop(stream, draw)
            if not before.allows(draw):
                return _words(stream, before, draw)
            self._drawn[stream] = draw
            if len(self._drawn) > REMEMBERED:
                del self._drawn[next(iter(self._drawn))]
        return None


def _draws(spec: Mapping[str, Any], module: Any, layer: bool) -> Iterator[tuple[Stream, Draw]]:
    """Yield the streams of a file, each with its draw."""
    filled = None if module is None else ref(module)
    of_torch = spec["generator"] == "torch"
    if drawn := {name: each for name, each in spec["tensors"].items() if of_torch and _is_random(each)}:
        # All tensors come, one after another, from the single stream of the seed.
        laws = [(name, each["shape"], _law(each)) for name, each in drawn.items()]
        digest = hashlib.sha256(json.dumps(laws).encode()).hexdigest()
        yield (next(iter(drawn.values()))["seed"], None), Draw((len(drawn),), digest, filled, layer)
        return
    for name, each in spec["tensors"].items():
        for stream, part in _parts(name, each):
            if _is_random(part):
                yield (each["seed"], stream), Draw(tuple(part["shape"]), _law(part), filled, layer)


def _parts(name: str, tensor: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a tensor and its parts, as tensors, each with its stream.

    A stream that the spec names is drawn again on purpose, so tensors and parts that have one are left out.
    """
    if "alias" in tensor or "stream" in tensor:
        return
    yield name, tensor
    for part in tensor.get("parts", ()):
        if "stream" not in part:
            bounds = [tuple(map(int, pair.split(":"))) for pair in part["slice"].split(",")]
            yield f"{name}[{part['slice']}]", {**part, "shape": [stop - start for start, stop in bounds]}


def _is_random(tensor: Mapping[str, Any]) -> bool:
    return "alias" not in tensor and tensor["scheme"] not in FIXED and 0 not in tensor["shape"]


def _law(tensor: Mapping[str, Any]) -> str:
    """Return the scheme of a tensor with its parameters."""
    parameters = ", ".join([f"{key}={tensor[key]}" for key in sorted(tensor.keys() - _NO_PARAMETERS)])
    return f"{tensor['scheme']}({parameters})"


def _words(stream: Stream, before: Draw, draw: Draw) -> str:
    """Return the text of the warning about a repeated stream."""
    seed, name = stream
    if name is None:
        return (
            "with generator='torch' every file is drawn from the beginning of its seed's stream, and other tensors "
            f"have been drawn from seed {seed} before: some have the same random numbers"
        )
    if (before.shape, before.law) == (draw.shape, draw.law):
        return f"another layer has been filled with the same numbers: those of seed {seed} and name {name!r}"
    return (
        f"seed {seed} and name {name!r} have been drawn as {before}, and now as {draw}: both have the same random "
        "numbers, which follow from seed and name alone, so the tensors are correlated"
    )
