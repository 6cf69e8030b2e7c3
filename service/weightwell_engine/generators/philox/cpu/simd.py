"""Lanes: a fixed number of values side by side, as a type that kernels compute with.

A loop left to the compiler to vectorize computes one vector at a time, and where it is a long chain of operations the
processor waits for each: it looks ahead about a hundred operations, which is hardly more than one vector's. Kernels
that load a few vectors' worth of lanes say what goes on side by side. LLVM cuts lanes into vectors as wide as the
processor has, of whatever width; an operation on lanes is that IEEE 754 or integer operation on each of them, so the
bits do not depend on their number.

``+ - * & | ^ << >>`` and comparisons are those of the lanes' type, without promotion; a scalar of the same type counts
as many equal lanes.

Numba's cache looks at a kernel's own file alone, not at this one: a change here asks for one there.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from llvmlite import ir
from numba.core import types
from numba.core.registry import cpu_target
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model


def _widest_vector() -> int:
    """Return the bytes of a vector of the processor that Numba compiles for."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


VECTOR = _widest_vector()
"""Bytes of the processor's vectors: how many lanes are worth while follows from it, and no bit of any result."""

_INT32 = ir.IntType(32)
_FLOATS = {32: ir.FloatType(), 64: ir.DoubleType()}


class Lanes(types.Type):  # type: ignore[misc, unused-ignore]
    """Numba's type of ``count`` lanes of a type of numbers, or of truths."""

    def __init__(self, dtype: Any, count: int):
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")

    def can_convert_from(self, _context: Any, other: Any) -> Any:
        """Return whether a scalar may stand for lanes: if it is of their type."""
        return Conversion.safe if other == self.dtype else None

    @property
    def vector(self) -> Any:
        """LLVM's type."""
        width = 1 if isinstance(self.dtype, types.Boolean) else self.dtype.bitwidth
        element = _FLOATS[width] if isinstance(self.dtype, types.Float) else ir.IntType(width)
        return ir.VectorType(element, self.count)


@register_model(Lanes)
class _Model(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, lanes: Lanes):
        super().__init__(manager, lanes, lanes.vector)


@lower_cast(types.Number, Lanes)  # type: ignore[untyped-decorator, unused-ignore]
def _spread(_context: Any, builder: Any, _scalar: Any, lanes: Lanes, value: Any) -> Any:
    nothing, zeros = ir.Constant(lanes.vector, ir.Undefined), ir.Constant(ir.VectorType(_INT32, lanes.count), None)
    return builder.shuffle_vector(builder.insert_element(nothing, value, _INT32(0)), nothing, zeros)


# -- operators --------------------------------------------------------------------------------------------------------

Build = Callable[[Any, Any], Callable[..., Any]]


def _define(operation: Any, result: Callable[[Lanes], Lanes], build: Build, *, floats: bool = True) -> None:
    """Define an operator of two lanes, of floats or not; ``build`` returns LLVM's instruction for a type of numbers."""

    @infer_global(operation)
    class _Operator(AbstractTemplate):  # type: ignore[misc, unused-ignore]
        key = operation

        def generic(self, arguments: Any, _: Any) -> Any:
            lanes = next((each for each in arguments if isinstance(each, Lanes)), None)
            if lanes and (floats or not isinstance(lanes.dtype, types.Float)):
                return signature(result(lanes), lanes, lanes)
            return None

    @lower_builtin(operation, Lanes, Lanes)  # type: ignore[untyped-decorator, unused-ignore]
    def _lower(_context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return build(builder, call.args[0].dtype)(*arguments)


def _same(lanes: Lanes) -> Lanes:
    return lanes


def _condition(lanes: Lanes) -> Lanes:
    return Lanes(types.boolean, lanes.count)


def _arithmetic(name: str) -> Build:
    return lambda builder, dtype: getattr(builder, f"f{name}" if isinstance(dtype, types.Float) else name)


def _bitwise(unsigned: str, signed: str) -> Build:
    return lambda builder, dtype: getattr(builder, signed if dtype.signed else unsigned)


def _comparison(symbol: str) -> Build:
    def build(builder: Any, dtype: Any) -> Any:
        if isinstance(dtype, types.Float):
            return partial(builder.fcmp_ordered, symbol)
        return partial(builder.icmp_signed if dtype.signed else builder.icmp_unsigned, symbol)

    return build


for _operation, _name in (operator.add, "add"), (operator.sub, "sub"), (operator.mul, "mul"):
    _define(_operation, _same, _arithmetic(_name))

for _operation, _unsigned, _signed in (
    (operator.and_, "and_", "and_"),
    (operator.or_, "or_", "or_"),
    (operator.xor, "xor", "xor"),
    (operator.lshift, "shl", "shl"),
    (operator.rshift, "lshr", "ashr"),
):
    _define(_operation, _same, _bitwise(_unsigned, _signed), floats=False)

for _operation, _symbol in (operator.lt, "<"), (operator.gt, ">"), (operator.le, "<="), (operator.eq, "=="):
    _define(_operation, _condition, _comparison(_symbol))


# -- functions --------------------------------------------------------------------------------------------------------


def _place(context: Any, builder: Any, array: Any, arguments: Any, lanes: Lanes) -> Any:
    """Return a pointer to lanes in an array, from an index on: the first two arguments."""
    data = context.make_array(array)(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), lanes.vector.as_pointer())


@intrinsic(prefer_literal=True)
def _load(_: Any, array: Any, _at: Any, count: Any) -> Any:
    lanes = Lanes(array.dtype, count.literal_value)

    def codegen(context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments, lanes)
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return lanes(array, types.intp, count), codegen


@intrinsic
def _store(_: Any, array: Any, _at: Any, lanes: Any) -> Any:
    def codegen(context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        place = _place(context, builder, array, arguments, lanes)
        builder.store(arguments[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


@intrinsic
def _interleave(_: Any, evens: Any, odds: Any) -> Any:
    lanes = Lanes(evens.dtype, 2 * evens.count)
    order = [i // 2 + evens.count * (i % 2) for i in range(lanes.count)]

    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        return builder.shuffle_vector(*arguments, ir.Constant(ir.VectorType(_INT32, lanes.count), order))

    return lanes(evens, odds), codegen


@intrinsic(prefer_literal=True)
def _count_from(_: Any, start: Any, count: Any) -> Any:
    lanes = Lanes(start, count.literal_value)

    def codegen(context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        steps = ir.Constant(lanes.vector, list(range(lanes.count)))
        return builder.add(_spread(context, builder, start, lanes, arguments[0]), steps)

    return lanes(start, count), codegen


@intrinsic
def _convert(_: Any, lanes: Any, dtype: Any) -> Any:
    to = Lanes(dtype.dtype, lanes.count)

    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        if isinstance(to.dtype, types.Float):
            return (builder.sitofp if lanes.dtype.signed else builder.uitofp)(arguments[0], to.vector)
        return (builder.zext if lanes.dtype.bitwidth < to.dtype.bitwidth else builder.trunc)(arguments[0], to.vector)

    return to(lanes, dtype), codegen


@intrinsic
def _view(_: Any, lanes: Any, dtype: Any) -> Any:
    to = Lanes(dtype.dtype, lanes.count * lanes.dtype.bitwidth // dtype.dtype.bitwidth)

    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], to.vector)

    return to(lanes, dtype), codegen


@intrinsic
def _where(_: Any, condition: Any, yes: Any, no: Any) -> Any:
    lanes = yes if isinstance(yes, Lanes) else no

    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return lanes(condition, lanes, lanes), codegen


@intrinsic
def _any_of(_: Any, condition: Any) -> Any:
    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        together = ir.IntType(condition.count)
        return builder.icmp_unsigned("!=", builder.bitcast(arguments[0], together), together(0))

    return types.boolean(condition), codegen


@intrinsic
def _bits_of(_: Any, condition: Any) -> Any:
    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(condition.count)), ir.IntType(64))

    return types.uint64(condition), codegen


@intrinsic
def _truths(_: Any, bits: Any) -> Any:
    lanes = Lanes(types.boolean, bits.bitwidth)

    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], lanes.vector)

    return lanes(bits), codegen


@intrinsic
def _lowest(_: Any, bits: Any) -> Any:
    def codegen(_context: Any, builder: Any, _call: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(bits), codegen


Function = Callable[..., Any]

load = cast(Function, _load)
"""``load(array, at, count)``: the ``count`` elements of an array from ``at`` on; ``count`` is a constant."""
store = cast(Function, _store)
"""``store(array, at, lanes)``: write lanes from ``at`` on."""
interleave = cast(Function, _interleave)
"""``interleave(evens, odds)``: twice as many lanes, taken in turns."""
count_from = cast(Function, _count_from)
"""``count_from(start, count)``: ``start, start + 1, ...``, integers of the type of ``start``."""
convert = cast(Function, _convert)
"""``convert(lanes, dtype)``: integers as floats of the same width, rounded; or their low bits, as narrower integers."""
view = cast(Function, _view)
"""``view(lanes, dtype)``: the same bits as another type of the same width."""
where = cast(Function, _where)
"""``where(condition, yes, no)``: lanes of either of two, of which one may be a scalar."""
any_of = cast(Function, _any_of)
"""``any_of(condition)``: whether it is true of any lane."""
bits_of = cast(Function, _bits_of)
"""``bits_of(condition)``: of which lanes it is true, as the bits of a number; of fewer than 64 lanes."""
truths = cast(Function, _truths)
"""``truths(bits)``: the condition that ``bits_of`` makes such a number of; it has as many lanes as the number bits."""
lowest = cast(Function, _lowest)
"""``lowest(bits)``: the place of the lowest bit that is set, of a uint64 that is not 0."""
