"""The torch generator: bit for bit what ``torch.nn.init`` gives on this machine.

One tensor has the numbers of ``torch.nn.init.<scheme>_(torch.empty(shape, dtype=dtype),
generator=torch.Generator(device).manual_seed(seed))``. Several tensors come from one generator, in the order of the
spec, as in a model's constructor. torch's global generator is never used.

torch draws one number after another. So a file is drawn from its beginning, in blocks, and in bounded memory if the law
allows it. A range also costs the time of all numbers before it. Some of torch's errors are corrected (docs/torch.md):
the mask of ``sparse`` comes from the request's generator and not from the global one, and a truncated normal with
std = 0 is a constant and not a division by zero.
"""

import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, erf, expm1, log, log1p, pi, prod, sqrt
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from weightwell_engine.dtypes import DTYPES, INTEGERS, DType
from weightwell_engine.exceptions import UnsupportedSpec
from weightwell_engine.generators import Drawing, DrawingStopped, deterministic, places
from weightwell_engine.generators.devices import Device
from weightwell_engine.laws import (
    ClampedNormal,
    Law,
    Normal,
    Orthogonal,
    OrthogonalStack,
    PowersOfTwo,
    Sparse,
    TruncatedNormal,
    Uniform,
    UniformIntegers,
)
from weightwell_engine.plan import Piece, Plan, PlannedTensor, errors_of_tensor

# Elements of a block. On the CPU torch fills normals in groups of 16. If the size is not a multiple of 16, it draws the
# last 16 again. So blocks of multiples of 16, with at least 16 in the last block, equal one call.
_BLOCK = 2**18
_GROUP = 16

_FLOATS = ("float32", "float64", "float16", "bfloat16")

# The most proposals of torch's sampler for one truncated normal.
_PATIENCE = 100

# The most elements of a truncated normal times passes of the sampler: about two minutes.
_MOST_PROPOSALS = 2**31

# Approximate nanoseconds on a CPU: for a piece, a call, an element, and an element of a matrix or of a sampler's pass.
_PIECE, _CALL, _ELEMENT, _SLOW = 20_000, 9_000, 8, 40

# Bytes of the two generator states that are saved at the beginning of a tensor.
_STATE = 2 * 5056

# Temporary copies of the whole tensor at the peak of torch's algorithm, in addition to the result.
_COPIES = {
    TruncatedNormal: 5,
    Orthogonal: 5,
    OrthogonalStack: 6,
    Sparse: 2,
    Uniform: 2,
    UniformIntegers: 2,
    Normal: 2,
    ClampedNormal: 2,
}


class TorchGenerator:
    """Draws with the installed torch on one device."""

    name = "torch"
    portable = False
    concurrency = 1

    def __init__(self, device: Device):
        self.device = device
        self._place = torch.device(device.name)
        self.chunk = device.chunk
        self.identity = f"torch {torch.__version__}; {_describe(torch.device(device.name))}"

    def warm_up(self) -> None:
        """Start torch's threads and, on a GPU, its context."""
        with self.device.guarded():
            torch.empty(_BLOCK, device=self._place).normal_(generator=torch.Generator(self._place))

    def check(self, plan: Plan) -> None:
        """Raise ``UnsupportedSpec`` if torch has no kernel, if its sampler would not end, and for several seeds."""
        for tensor in plan.tensors:
            with errors_of_tensor(tensor.name, several=len(plan.tensors) > 1):
                _check_composed(tensor)
                self._check(tensor, seed=plan.tensors[0].seed)

    def _check(self, tensor: PlannedTensor, *, seed: int) -> None:
        if isinstance(tensor.law, PowersOfTwo):
            raise UnsupportedSpec("scheme", got="power_of_two", expected="another scheme", detail=_NO_POWERS)
        allowed = _dtypes(tensor.law)
        if tensor.dtype.name not in allowed:
            raise UnsupportedSpec(
                "dtype",
                got=tensor.dtype.name,
                expected=f"one of {', '.join(allowed)}",
                detail=f"torch does not support {type(tensor.law).__name__} in {tensor.dtype.name}; "
                f"use one of {', '.join(allowed)}, or another generator",
            )
        if isinstance(tensor.law, TruncatedNormal) and not _ends(tensor.law, tensor.dtype):
            raise UnsupportedSpec(
                "std",
                got=tensor.law.std,
                expected="larger, or the bounds nearer to the mean",
                detail=f"torch's rejection sampler would not end soon for {tensor.law}; "
                "move the bounds towards the mean, or use another generator",
            )
        if isinstance(tensor.law, TruncatedNormal):
            self._check_passes(tensor, tensor.law)
        if tensor.seed != seed:
            raise UnsupportedSpec(
                "seed",
                got=tensor.seed,
                expected="the same for every tensor",
                detail="generator=torch draws all tensors in order from one generator, so they have one seed; "
                "give one seed in the manifest, next to tensors",
            )

    def _check_passes(self, tensor: PlannedTensor, law: TruncatedNormal) -> None:
        elements = prod(tensor.region.shape)
        passes = _passes(law, elements)
        if elements * passes > _MOST_PROPOSALS:
            raise UnsupportedSpec(
                "shape",
                got=elements,
                expected=f"at most {_MOST_PROPOSALS // passes} elements for these bounds",
                detail=f"torch's rejection sampler would pass about {passes} times over {elements} elements, and "
                f"{_MOST_PROPOSALS} proposals are allowed; request a smaller tensor, move the bounds towards the mean, "
                "or use another generator",
            )

    def instant(self, plan: Plan) -> bool:
        """Return whether the device is the CPU and the plan has no matrices."""
        return self._place.type == "cpu" and self.footprint(plan) == 0

    def footprint(self, plan: Plan) -> int:
        """Return the bytes of the largest tensor that must be drawn whole, with torch's temporary copies."""
        states = 0 if _is_in_order(plan) else len(plan.tensors) * _STATE
        return states + max((self._resident(tensor) for tensor in plan.tensors), default=0)

    def kept(self, plan: Plan) -> int:
        """Return the bytes of the largest tensor that is drawn whole, and of the saved generator states."""
        states = 0 if _is_in_order(plan) else len(plan.tensors) * _STATE
        whole = (_nbytes(tensor) for tensor in plan.tensors if self._resident(tensor))
        return states + max(whole, default=0)

    def cost(self, piece: Piece) -> int:
        """Estimate the time to draw a piece after the numbers before it, or to copy it, in nanoseconds."""
        calls, _ = piece.tensor.region.work(piece.start, piece.stop) if piece.tensor.law.is_deterministic else (1, 0)
        return _PIECE + calls * _CALL + (piece.stop - piece.start) * _ELEMENT

    def before(self, piece: Piece) -> int:
        """Estimate the time to draw the numbers before a piece, in nanoseconds."""
        return (piece.tensor.offset // piece.tensor.dtype.itemsize + piece.start) * _ELEMENT

    def whole(self, piece: Piece) -> int:
        """Estimate the time to draw a whole tensor, in nanoseconds; 0 for one that is drawn in pieces."""
        tensor = piece.tensor
        if not self._resident(tensor):
            return 0
        match tensor.law:
            case TruncatedNormal() as law:
                each = _SLOW * _passes(law, prod(tensor.region.shape))
            case Orthogonal(rows, cols):
                each = min(rows, cols)
            case _:
                each = _SLOW
        return prod(tensor.region.shape) * each

    def approach(self, drawing: Drawing, piece: Piece) -> Iterator[None]:
        """Draw the numbers before a piece, block by block. A block takes a few milliseconds. A matrix is one block."""
        if isinstance(drawing, TorchDrawing):
            yield from drawing.approach(piece)

    def allocate(self, nbytes: int) -> memoryview:
        """Return uninitialized memory, pinned if the device is a GPU."""
        return self.device.allocate(nbytes)

    def open(self, plan: Plan) -> "TorchDrawing":
        """Start drawing a file."""
        with self.device.guarded():
            return TorchDrawing(plan, self.device, self._place)

    def _resident(self, tensor: PlannedTensor) -> int:
        if _is_streamed(tensor, self._place) or tensor.law.is_deterministic:
            return 0
        return _nbytes(tensor) * _COPIES[type(tensor.law)]


@dataclass(frozen=True, slots=True)
class _Block:
    """Drawn elements of a tensor, on the device; ``values`` begins at element ``start``."""

    order: int
    start: int
    values: torch.Tensor


class TorchDrawing:
    """The state of drawing one file: a generator, its position, and the last block."""

    def __init__(self, plan: Plan, device: Device, place: torch.device):
        self._tensors = sorted(plan.tensors, key=lambda tensor: tensor.order)
        self._device = device
        self._place = place
        self._generators = _Generators(place, self._tensors[0].seed if self._tensors else 0)
        # The state of the generators at the beginning of every tensor so far: the order of the file may differ from the
        # order of drawing, and a saved state makes it cheap to go back. If both orders are equal, the last is enough.
        self._states = {0: self._generators.state()}
        self._reached = 0
        self._drawing = -1
        self._in_order = _is_in_order(plan)
        self._blocks: Iterator[_Block] = iter(())
        self._block: _Block | None = None
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Stop drawing, even before an element far into the file is reached."""
        self._closed = True

    def fill(self, pieces: Sequence[Piece], out: memoryview) -> None:
        """Write the elements of pieces, one piece after the other, into ``out``."""
        with self._device.guarded():
            for piece, place in places(pieces, out):
                self._fill(piece, place)

    def _fill(self, piece: Piece, out: memoryview) -> None:
        if piece.tensor.law.is_deterministic:
            deterministic.fill(piece, out)
            return
        target = torch.frombuffer(out, dtype=getattr(torch, piece.tensor.dtype.name))
        start = piece.start
        with self._lock:
            while start < piece.stop:
                block = self._block_with(piece.tensor, start)
                values = block.values[start - block.start : piece.stop - block.start]
                target[start - piece.start :][: len(values)].copy_(values)
                start += len(values)

    def approach(self, piece: Piece) -> Iterator[None]:
        """Draw up to the first element of a piece, and pause after every block."""
        if piece.tensor.law.is_deterministic:
            return
        while not self._is_near(piece):
            yield

    def _is_near(self, piece: Piece) -> bool:
        with self._device.guarded(), self._lock:
            return self._step(piece.tensor.order, piece.start)

    def _block_with(self, tensor: PlannedTensor, element: int) -> _Block:
        """Return the block that holds an element: draw on to it, or start again if it is already past."""
        while not self._step(tensor.order, element):
            pass
        return self._block  # type: ignore[return-value]  # the last step has drawn it

    def _step(self, order: int, element: int) -> bool:
        """Draw the next block towards an element of a tensor; return whether that block has the element."""
        if self._block is None or self._block.order != order or element < self._block.start:
            if self._reached < order:
                self._advance()
                return False
            self._begin(order)
        if self._block is None or element >= self._block.start + len(self._block.values):
            self._block = next(self._blocks)
        return element < self._block.start + len(self._block.values)

    def _advance(self) -> None:
        """Draw the next block of the current tensor; after the last block, save the state for the next tensor."""
        if self._drawing != self._reached:
            self._begin(self._reached)
        if next(self._blocks, None) is None:
            if self._in_order:
                self._states.clear()
            self._reached += 1
            self._states[self._reached] = self._generators.state()

    def _begin(self, order: int) -> None:
        self._block = None  # free it before the next is drawn
        self._generators.restore(self._states[order])
        self._drawing, self._blocks = order, self._draw(self._tensors[order])

    def _go_on(self) -> None:
        if self._closed:
            raise DrawingStopped

    def _draw(self, tensor: PlannedTensor) -> Iterator[_Block]:
        """Yield a tensor block by block, as the generators draw it."""
        if tensor.law.is_deterministic:
            return
        for start, stop in _bounds(tensor, self._place):
            values = torch.empty(stop - start, dtype=getattr(torch, tensor.dtype.name), device=self._place)
            self._generators.draw(tensor.law, values, self._go_on)
            self._go_on()
            yield _Block(tensor.order, start, _wanted(values, tensor))


class _Generators:
    """The generators of one drawing: one on the device, and one on the CPU for permutations.

    If the device is the CPU, both are the same generator, as in torch.
    """

    def __init__(self, device: torch.device, seed: int):
        self._main = torch.Generator(device).manual_seed(seed)
        self._host = self._main if device.type == "cpu" else torch.Generator().manual_seed(seed)

    def state(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the states of both generators."""
        return self._main.get_state(), self._host.get_state()

    def restore(self, state: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Restore the states of both generators."""
        self._main.set_state(state[0])
        if self._host is not self._main:
            self._host.set_state(state[1])

    def draw(self, law: Law, values: torch.Tensor, go_on: Callable[[], None]) -> None:
        """Fill a flat tensor with draws from a law. Long work calls ``go_on`` now and then, which may raise."""
        match law:
            case Uniform(low, high):
                values.uniform_(low, high, generator=self._main)
            case UniformIntegers(low, high):
                values.random_(low, high, generator=self._main)
            case Normal(mean, std):
                values.normal_(mean, std, generator=self._main)
            case ClampedNormal(mean, std, low, high):
                most = torch.finfo(values.dtype).max  # torch refuses bounds that the dtype does not hold
                low, high = (min(max(bound, -most), most) for bound in (low, high))
                values.normal_(mean, std, generator=self._main).clamp_(low, high)
            case TruncatedNormal(mean, std, low, high):
                with _Stoppable(go_on):
                    torch.nn.init.trunc_normal_(values, mean, std, low, high, generator=self._main)
            case Orthogonal(rows, cols, gain, taps, centre):
                matrix = torch.empty(rows, cols, dtype=values.dtype, device=values.device)
                torch.nn.init.orthogonal_(matrix, gain, generator=self._main)
                values.zero_().view(rows, cols, taps)[:, :, centre] = matrix
            case OrthogonalStack(sizes=sizes, strides=strides):
                stack = torch.empty_like(values)
                for matrix in stack.chunk(law.count):
                    go_on()
                    self.draw(law.each, matrix, go_on)
                values.view(sizes).copy_(stack.as_strided(sizes, strides))
            case Sparse(rows, cols, zeros, std):
                matrix = values.normal_(0, std, generator=self._main).view(rows, cols)
                for column in range(cols):
                    go_on()
                    matrix[torch.randperm(rows, generator=self._host)[:zeros].to(values.device), column] = 0


class _Stoppable(TorchFunctionMode):
    """Calls ``go_on``, which may raise, before every operation of torch in this thread.

    Once it has raised, it is not called again: torch then switches autograd on again, which is an operation too.
    """

    def __init__(self, go_on: Callable[[], None]):
        super().__init__()
        self._go_on = go_on
        self._stopped = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if not self._stopped:
            self._stopped = True
            self._go_on()
            self._stopped = False
        return func(*args, **(kwargs or {}))


def _check_composed(tensor: PlannedTensor) -> None:
    """Refuse parts, and a stream: torch draws one tensor after the other from a generator that has no names."""
    if tensor.stream is not None:
        raise UnsupportedSpec("stream", got=tensor.stream, expected="absent", detail=_NO_STREAM)
    if tensor.parts:
        raise UnsupportedSpec("parts", got=len(tensor.parts), expected="absent", detail=_NO_PARTS)


_NO_STREAM = (
    "generator=torch draws all tensors in order from one generator, so a stream changes nothing; leave stream out, or "
    "use generator=philox"
)
_NO_POWERS = "torch has no function that draws powers of two; use generator=philox for the scheme power_of_two"
_NO_PARTS = "generator=torch draws whole tensors, without parts; give the parts as tensors, or use generator=philox"


def _is_in_order(plan: Plan) -> bool:
    """Whether the order of the file is the order of drawing."""
    return all(one.order < other.order for one, other in pairwise(plan.tensors))


def _is_streamed(tensor: PlannedTensor, device: torch.device) -> bool:
    """Whether a tensor can be drawn block by block. On a GPU it cannot: the numbers depend on the size of the call."""
    return (
        device.type == "cpu"
        and isinstance(tensor.law, Uniform | UniformIntegers | Normal | ClampedNormal)
        and tensor.region.is_whole
    )


def _bounds(tensor: PlannedTensor, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of the blocks of a tensor. There may be one block: the whole tensor."""
    start, stop = 0, prod(tensor.region.shape)
    while _is_streamed(tensor, device) and stop - start >= _BLOCK + _GROUP:
        yield start, start + _BLOCK
        start += _BLOCK
    yield start, stop


def _wanted(values: torch.Tensor, tensor: PlannedTensor) -> torch.Tensor:
    """Return the elements of a region of a tensor, flat; the values unchanged if the region is the whole tensor."""
    if tensor.region.is_whole:
        return values
    bounds = zip(tensor.region.starts, tensor.region.stops, strict=True)
    return values.view(tensor.region.shape)[tuple(slice(*bound) for bound in bounds)].flatten()


def _nbytes(tensor: PlannedTensor) -> int:
    """Return the bytes of a whole tensor."""
    return prod(tensor.region.shape) * tensor.dtype.itemsize


def _passes(law: TruncatedNormal, elements: int) -> int:
    """Estimate the number of passes of torch's rejection sampler until it has accepted every element."""
    low, high = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
    if _proposes_normals(low, high):
        accepted = _between(low, high)
    else:
        # Of the proposals between the bounds, the mean density over its peak; the mass of a tail is Mills' ratio.
        width, distance = max(high - low, 1e-9), max(low, -high, 0.0)
        mass = 2 / (distance + sqrt(distance * distance + 8 / pi))
        accepted = mass / width * -expm1(-width / mass)
    return ceil(1 + log(max(elements, 1)) / -log1p(-min(accepted, 0.999)))


def _between(low: float, high: float) -> float:
    """Return the probability that a standard normal is between two bounds."""
    return (erf(high / sqrt(2)) - erf(low / sqrt(2))) / 2


def _proposes_normals(low: float, high: float) -> bool:
    """Whether torch's sampler takes proposals from the normal distribution, and not uniformly from the interval."""
    return _between(low, high) > 0.3


def _dtypes(law: Law) -> tuple[str, ...]:
    """Return the dtypes in which torch can draw a law."""
    if law.is_deterministic:
        return tuple(DTYPES)
    if isinstance(law, UniformIntegers):
        return tuple(INTEGERS)
    return _FLOATS[:2] if isinstance(law, Orthogonal | OrthogonalStack) else _FLOATS


def _ends(law: TruncatedNormal, dtype: DType) -> bool:
    """Whether torch's rejection sampler accepts the bounds of a truncated normal and ends in a reasonable time.

    All lengths are in standard deviations: ``width`` of the interval, ``distance`` from the mean to the nearer bound,
    and ``grain``, the largest rounding error of a proposal or a bound in the dtype.
    """
    low, high = (law.low - law.mean) / law.std, (law.high - law.mean) / law.std
    eps = torch.finfo(getattr(torch, dtype.name)).eps
    if _proposes_normals(low, high):
        return law.low <= law.mean <= law.high or eps * abs(law.mean) <= law.std
    # Here proposals are uniform in the interval, and about one in ``width * distance`` is accepted.
    width, distance = (law.high - law.low) / law.std, max(low, -high, 1.0)
    grain = eps * max(abs(law.low), abs(law.high), abs(law.mean)) / law.std
    fits = max(-law.low, law.high, law.high - law.low) <= dtype.max
    return fits and width * distance <= _PATIENCE and distance * grain <= 2


def _describe(device: torch.device) -> str:
    """Return a text with the properties of a device that torch's numbers depend on."""
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return f"cpu {platform.machine()} {capability}, {torch.get_num_threads()} threads"
    card = torch.cuda.get_device_properties(device)
    threads = f"{card.multi_processor_count} SMs of {card.max_threads_per_multi_processor} threads"
    return f"cuda {card.name}, compute capability {card.major}.{card.minor}, {threads}"
