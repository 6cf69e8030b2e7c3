"""Explicit SIMD for kernels that Numba compiles: ``Lanes`` are several vectors that one instruction works on.

A plain loop computes one vector at a time. In a long chain of operations, the processor then waits for every result. So
``operation`` compiles functions of ``Lanes``, which are several vectors wide. Such a function runs once, while the
kernel that calls it is compiled: each operator adds one instruction to the kernel. LLVM splits lanes into vectors of
the processor's width. Each lane is computed by the rules of IEEE 754 or of integers, so the bits do not depend on the
number of lanes.

``+ - * & | ^ << >> < > <=`` take lanes of one type, without promotion. A Python number, or a scalar of the same type,
stands for as many equal lanes.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.types.containers import BaseTuple
from numba.extending import intrinsic

from weightwell_engine.generators.philox.cpu.machine_code import PROCESSOR

VECTOR = 64 if "+avx512f" in PROCESSOR.features else 32 if "+avx2" in PROCESSOR.features else 16
"""Bytes of the vectors of the processor that is compiled for."""

Function = TypeVar("Function", bound=Callable[..., None])
_INT32 = ir.IntType(32)


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """Numbers of one type in LLVM's ``value``, a vector or a scalar."""

    builder: Any
    value: Any
    dtype: np.dtype[Any]

    @property
    def count(self) -> int | None:
        """The number of lanes; None for a scalar."""
        return getattr(self.value.type, "count", None)

    def of(self, value: Any, dtype: Any = None) -> "Lanes":
        """Return a result of the same kernel, of the same type if no other is given."""
        return Lanes(self.builder, value, self.dtype if dtype is None else np.dtype(dtype))

    def spread(self, count: int | None) -> "Lanes":
        """Return a scalar as ``count`` equal lanes."""
        if self.count is not None or count is None:
            return self
        nothing = ir.Constant(ir.VectorType(self.value.type, count), ir.Undefined)
        return self.of(self.builder.insert_element(nothing, self.value, _INT32(0))).take([0] * count)

    def to(self, dtype: Any) -> "Lanes":
        """Convert integers to floats of the same width, rounded, or to wider or narrower integers."""
        to = np.dtype(dtype)
        if to.kind == "f":
            convert = self.builder.sitofp if self.dtype.kind == "i" else self.builder.uitofp
        else:
            convert = self.builder.zext if self.dtype.itemsize < to.itemsize else self.builder.trunc
        return self.of(convert(self.value, _type(to, self.count)), to)

    def view(self, dtype: Any) -> "Lanes":
        """Return the same bits as lanes of another type."""
        to = np.dtype(dtype)
        count = self.count and self.count * self.dtype.itemsize // to.itemsize
        return self.of(self.builder.bitcast(self.value, _type(to, count)), to)

    def plus(self, numbers: Sequence[int]) -> "Lanes":
        """Return the sums of an integer scalar and some numbers, one to a lane."""
        left = self.spread(len(numbers)).value
        return self.of(self.builder.add(left, ir.Constant(left.type, list(numbers))))

    def take(self, order: Sequence[int]) -> "Lanes":
        """Return the lanes with some numbers."""
        return self._shuffle(self, order)

    def _shuffle(self, other: "Lanes", order: Sequence[int]) -> "Lanes":
        """Return lanes of these and, numbered after these, of others."""
        mask = ir.Constant(ir.VectorType(_INT32, len(order)), list(order))
        return self.of(self.builder.shuffle_vector(self.value, other.value, mask))

    def _pair(self, other: Any) -> tuple[Any, Any]:
        """Return LLVM's values of these lanes and of others, with the same number of lanes."""
        if not isinstance(other, Lanes):
            other = self.of(ir.Constant(_type(self.dtype), self.dtype.type(other).item()))
        if other.dtype != self.dtype:
            raise TypeError(f"expected lanes of {self.dtype}, got {other.dtype}")
        count = other.count if self.count is None else self.count
        return self.spread(count).value, other.spread(count).value

    def _arithmetic(self, name: str, other: Any, *, swapped: bool = False) -> "Lanes":
        left, right = self._pair(other)
        instruction = getattr(self.builder, f"f{name}" if self.dtype.kind == "f" else name)
        return self.of(instruction(right, left) if swapped else instruction(left, right))

    def _bitwise(self, name: str, other: Any) -> "Lanes":
        return self.of(getattr(self.builder, name)(*self._pair(other)))

    def _compare(self, symbol: str, other: Any) -> "Lanes":
        kinds = {"f": self.builder.fcmp_ordered, "i": self.builder.icmp_signed, "u": self.builder.icmp_unsigned}
        return self.of(kinds[self.dtype.kind](symbol, *self._pair(other)), np.bool_)

    def __add__(self, other: Any) -> "Lanes":
        return self._arithmetic("add", other)

    def __sub__(self, other: Any) -> "Lanes":
        return self._arithmetic("sub", other)

    def __mul__(self, other: Any) -> "Lanes":
        return self._arithmetic("mul", other)

    __radd__, __rmul__ = __add__, __mul__  # IEEE 754 sums and products do not depend on the order of the two

    def __rsub__(self, other: Any) -> "Lanes":
        return self._arithmetic("sub", other, swapped=True)

    def __and__(self, other: Any) -> "Lanes":
        return self._bitwise("and_", other)

    def __or__(self, other: Any) -> "Lanes":
        return self._bitwise("or_", other)

    def __xor__(self, other: Any) -> "Lanes":
        return self._bitwise("xor", other)

    def __lshift__(self, other: Any) -> "Lanes":
        return self._bitwise("shl", other)

    def __rshift__(self, other: Any) -> "Lanes":
        return self._bitwise("ashr" if self.dtype.kind == "i" else "lshr", other)

    def __lt__(self, other: Any) -> "Lanes":
        return self._compare("<", other)

    def __gt__(self, other: Any) -> "Lanes":
        return self._compare(">", other)

    def __le__(self, other: Any) -> "Lanes":
        return self._compare("<=", other)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """The elements of a contiguous array, or its bytes as elements of another type."""

    builder: Any
    data: Any
    dtype: np.dtype[Any]

    def load(self, at: Any, count: int | None = None, dtype: Any = None) -> Lanes:
        """Return ``count`` elements from number ``at`` on, or a scalar."""
        kind = self.dtype if dtype is None else np.dtype(dtype)
        place = self._place(at, kind, count)
        return Lanes(self.builder, self.builder.load(place, align=kind.itemsize), kind)

    def store(self, at: Any, lanes: Lanes) -> None:
        """Write lanes from number ``at`` on, counted in elements of their type."""
        place = self._place(at, lanes.dtype, lanes.count)
        self.builder.store(lanes.value, place, align=lanes.dtype.itemsize)

    def _place(self, at: Any, dtype: np.dtype[Any], count: int | None) -> Any:
        index = at.value if isinstance(at, Lanes) else ir.IntType(64)(at)
        elements = self.builder.bitcast(self.data, _type(dtype).as_pointer())
        return self.builder.bitcast(self.builder.gep(elements, [index]), _type(dtype, count).as_pointer())


def either(condition: Lanes, yes: Memory, no: Memory) -> Memory:
    """Return ``yes`` if a scalar condition is true, else the bytes of ``no`` as elements of the type of ``yes``."""
    builder, byte = yes.builder, ir.IntType(8).as_pointer()
    data = builder.select(condition.value, builder.bitcast(yes.data, byte), builder.bitcast(no.data, byte))
    return Memory(builder, data, yes.dtype)


def where(condition: Lanes, yes: Any, no: Any) -> Lanes:
    """Return lanes of ``yes`` where the condition is true, and of ``no`` elsewhere; one of them may be a scalar."""
    if isinstance(yes, Lanes):
        left, right = yes._pair(no)
        return yes.of(yes.builder.select(condition.value, left, right))
    right, left = no._pair(yes)
    return cast(Lanes, no.of(no.builder.select(condition.value, left, right)))


def rarely(condition: Lanes, compute: Callable[[], Lanes], otherwise: Lanes) -> Lanes:
    """Return ``where(condition, compute(), otherwise)``, which is computed only if the condition is true somewhere."""
    builder, before = condition.builder, condition.builder.block
    together = ir.IntType(condition.count)
    anywhere = builder.icmp_unsigned("!=", builder.bitcast(condition.value, together), together(0))
    with builder.if_then(anywhere, likely=False):
        chosen, inside = where(condition, compute(), otherwise), builder.block
    result = builder.phi(otherwise.value.type)
    result.add_incoming(otherwise.value, before)
    result.add_incoming(chosen.value, inside)
    return otherwise.of(result)


def join(parts: Sequence[Lanes]) -> Lanes:
    """Return the lanes of some values, a power of two of them, one value after the other."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return join(parts[:half])._shuffle(join(parts[half:]), range(sum(part.count or 1 for part in parts)))


def pair_order(count: int) -> list[int]:
    """Return the numbers that ``count`` lanes of 8 bytes must have, so that their ``interleave`` is in order."""
    half = VECTOR // 16
    return [lane - lane % (2 * half) + lane % 2 * half + lane % (2 * half) // 2 for lane in range(count)]


def interleave(evens: Lanes, odds: Lanes) -> Lanes:
    """Interleave two values of 8 bytes a lane: return twice as many lanes, alternately from each.

    The lanes are in ``pair_order``, so no number moves between the two halves of a vector of 32 bytes, which is slow.
    """
    count, vector = evens.count or 1, VECTOR // 8
    order = [
        start + lane + from_odds * count
        for start in range(0, count, vector)
        for begin in (0, 1)
        for lane in range(begin, vector, 2)
        for from_odds in (0, 1)
    ]
    return evens._shuffle(odds, order)


def count_from(start: Lanes, count: int) -> Lanes:
    """Return ``start, start + 1, ...`` as lanes of the type of the scalar ``start``."""
    return start.plus(range(count))


def operation(function: Function) -> Function:
    """Return a function for kernels. A call adds the instructions of ``function`` to the kernel.

    ``function`` gets ``Memory`` for an array, ``Lanes`` for a scalar, and tuples of them for a tuple.
    """

    def declare(_context: Any, *kinds: Any) -> Any:
        def emit(context: Any, builder: Any, call: Any, values: Any) -> Any:
            function(*(_argument(context, builder, kind, value) for kind, value in zip(call.args, values, strict=True)))
            return context.get_dummy_value()

        return types.void(*kinds), emit

    context = inspect.Parameter("_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [context, *inspect.signature(function).parameters.values()]
    declare.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return cast(Function, intrinsic(declare))


def _argument(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return an argument of a kernel's operation, of Numba's type ``kind``."""
    if isinstance(kind, types.Array):
        data = context.make_array(kind)(context, builder, value).data
        return Memory(builder, data, np.dtype(str(kind.dtype)))
    if isinstance(kind, BaseTuple):
        fields = cgutils.unpack_tuple(builder, value)
        arguments = [_argument(context, builder, *field) for field in zip(kind.types, fields, strict=True)]
        return kind.instance_class(*arguments)
    return Lanes(builder, value, np.dtype(str(kind)))


def _type(dtype: np.dtype[Any], count: int | None = None) -> Any:
    """Return LLVM's type of a number, or of a vector of numbers."""
    floats = {4: ir.FloatType(), 8: ir.DoubleType()}
    number = floats[dtype.itemsize] if dtype.kind == "f" else ir.IntType(8 * dtype.itemsize)
    return number if count is None else ir.VectorType(number, count)
