"""Streams: which random numbers a client has drawn, to warn of those that are drawn again for something else.

The numbers of a tensor follow from its seed and its name, whatever its shape and its law are: two layers that are drawn
under one name with one seed are correlated. That is the contract, and seldom what is meant.
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
FIXED = frozenset({"constant", "ones", "zeros", "eye", "identity", "dirac"})

# Streams that a client remembers, the latest ones: a few megabytes.
REMEMBERED = 2**14

# A seed and a name; with generator=torch a seed alone.
Stream = tuple[int | str, str | None]

_CURE = (
    "Give each tensor a name=, each module a prefix=, or each a seed= of its own. If these numbers are meant, ignore "
    "weightwell.RepeatedStreamWarning"
)


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn from a stream: a shape, a law in words, and the module that was filled, if one was.

    ``layer`` says that the module is a layer of torch, such as a Linear.
    """

    shape: tuple[int, ...]
    law: str
    module: "ref[Any] | None" = None
    layer: bool = False

    def __str__(self) -> str:
        return f"{self.law} of shape {list(self.shape)}"

    def allows(self, other: "Draw") -> bool:
        """Whether nobody has correlated numbers after another draw from the same stream."""
        before, after = (draw.module and draw.module() for draw in (self, other))
        if self.module is not None and before in (None, after):
            return True  # nobody has the earlier numbers: the module is filled again, or is no more
        if self.layer and other.layer:
            return False  # layers alike, while replicas of a model may be meant
        return (self.shape, self.law) == (other.shape, other.law)


class Streams:
    """The streams that a client has drawn from, of which it warns once; several threads may use it.

    A copy, and a pickled one, begins empty.
    """

    def __init__(self) -> None:
        self._drawn: dict[object, Draw] = {}
        self._lock, self._process = Lock(), os.getpid()
        self._warned = False

    def __reduce__(self) -> tuple[type["Streams"], tuple[()]]:
        return Streams, ()

    @property
    def watching(self) -> bool:
        """Whether there is still something to warn of."""
        return not self._warned

    def note(self, spec: Mapping[str, Any], module: Any = None, *, layer: bool = False) -> None:
        """Take note of a file's spec, as its metadata has it; warn if it draws a stream again for another tensor.

        ``module`` is what was filled, if anything was, and ``layer`` says that it is a layer of torch.
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
        """Remember draws; return what is to be said of the first that is of a stream that another tensor has."""
        for stream, draw in draws:
            before = self._drawn.pop(stream, draw)
            if not before.allows(draw):
                return _words(stream, before, draw)
            self._drawn[stream] = draw
            if len(self._drawn) > REMEMBERED:
                del self._drawn[next(iter(self._drawn))]
        return None


def _draws(spec: Mapping[str, Any], module: Any, layer: bool) -> Iterator[tuple[Stream, Draw]]:
    """Yield the streams of a file, each with what was drawn from it."""
    filled = None if module is None else ref(module)
    drawn = {name: each for name, each in spec["tensors"].items() if _is_random(each)}
    if spec["generator"] == "torch" and drawn:
        # From the one stream of the seed all tensors are drawn, one after another.
        laws = [(name, each["shape"], _law(each)) for name, each in drawn.items()]
        digest = hashlib.sha256(json.dumps(laws).encode()).hexdigest()
        yield (next(iter(drawn.values()))["seed"], None), Draw((len(drawn),), digest, filled, layer)
        return
    for name, each in drawn.items():
        yield (each["seed"], name), Draw(tuple(each["shape"]), _law(each), filled, layer)


def _is_random(tensor: Mapping[str, Any]) -> bool:
    return "alias" not in tensor and tensor["scheme"] not in FIXED and 0 not in tensor["shape"]


def _law(tensor: Mapping[str, Any]) -> str:
    """Return the scheme of a tensor with its parameters."""
    others = {"shape", "scheme", "dtype", "seed", "slice"}
    parameters = ", ".join(f"{key}={tensor[key]}" for key in sorted(tensor) if key not in others)
    return f"{tensor['scheme']}({parameters})"


def _words(stream: Stream, before: Draw, draw: Draw) -> str:
    """Return what is wrong about drawing from a stream again."""
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
