"""The mode in which torch's operators are recorded: each call that writes a tensor becomes a write of its storage."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from weightwell.recorder.laws import Constant, Diagonal, Law, Normal, Uniform
from weightwell.recorder.storages import (
    NEGATED,
    UNWRITTEN,
    Computed,
    Content,
    Copied,
    Draw,
    Drawn,
    Fixed,
    Line,
    Literal,
    Operand,
    Operation,
    Storage,
    Unknown,
    Unwritten,
    View,
    instances,
    mapped,
)

aten = torch.ops.aten

_BEFORE = "it was made before the recording began"
_OTHER_DTYPE = "it is a view with another dtype"
_OTHER_DTYPE_WRITE = "it was written by a view with another dtype"

# The dtypes in which random numbers are drawn.
_DRAWN = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

Handler = Callable[["Recorder", Any, tuple[Any, ...], Mapping[str, Any]], Any]

# Folders and files whose lines say nothing of a model: what is called from them is said by their caller.
_OWN = (__file__.rpartition("/")[0], torch.nn.init.__file__, "/transformers/initialization.py")
_TORCH = torch.__path__[0]
_MODULES = f"{_TORCH}/nn/modules/"


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what is written into tensors while it is entered. Random numbers are not drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: dict[int, Storage] = {}
        self.protected: set[int] = set()
        """The memory of tensors that must not be written."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Tell torch that ``__torch_dispatch__`` need not be hidden from its compiler, which makes calls slower."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, or only note what it would write."""
        del types
        if self.protected and func._schema.is_mutable:
            self._check(func, args, kwargs or {})
        handler = _HANDLERS.get(func)
        if handler is None:
            handler = _HANDLERS[func] = _handler_of(func)
        return handler(self, func, args, kwargs or {})

    # What is known of tensors ----------------------------------------------------------------------------------------

    def storage(self, tensor: torch.Tensor) -> Storage | None:
        """Return the storage of a tensor, if something is known of it."""
        return self.storages.get(tensor.untyped_storage()._cdata)

    def read(self, tensor: torch.Tensor) -> Content:
        """Return the content of a tensor."""
        storage = self.storage(tensor)
        if storage is None:
            if tensor.is_meta:
                return Unknown(_BEFORE)
            return Literal(tensor.detach().clone())
        if storage.dtype != tensor.dtype:
            return Unknown(_OTHER_DTYPE)
        return storage.read(View.of(tensor))

    def allocate(self, tensor: torch.Tensor) -> None:
        """Note that a tensor is new and has not been written."""
        self.storages[tensor.untyped_storage()._cdata] = Storage.of(tensor, UNWRITTEN)

    def write(self, tensor: torch.Tensor, content: Content) -> None:
        """Give the elements of a tensor a content."""
        if self.protected:
            self._check_tensor(tensor)
        storage = self.storage(tensor)
        if storage is None:
            if not tensor.is_meta and isinstance(content, Fixed | Literal):
                return  # the numbers are there
            before = Unknown(_BEFORE) if tensor.is_meta else _numbers_in(_whole(tensor))
            storage = self.storages[tensor.untyped_storage()._cdata] = Storage.of(tensor, before)
        if storage.dtype != tensor.dtype:
            if tensor.is_contiguous() and tensor.nbytes == storage.memory.nbytes():
                storage.dtype, storage.size = tensor.dtype, tensor.numel()
            else:
                tensor, content = _whole(tensor, storage.dtype), Unknown(_OTHER_DTYPE_WRITE)
        if isinstance(content, Drawn):
            if tensor.dtype not in _DRAWN:
                content = Unknown(f"no scheme draws random numbers of {tensor.dtype}")
            _spoil(tensor)
        line = None if isinstance(content, Unwritten) else _line()
        storage.write(View.of(tensor), content, line)

    def _check(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise ValueError for an operator that writes a tensor that must not be written."""
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                for each in instances(torch.Tensor, (value,), {}):
                    self._check_tensor(each)

    def _check_tensor(self, tensor: torch.Tensor) -> None:
        if tensor.untyped_storage()._cdata in self.protected:
            raise ValueError(
                "an initializer writes a tensor of the model by a reference that is no attribute of a module, as a "
                f"closure ({_line()}); record the model while it is built: use Manifest.of or weightwell.recording()"
            )

    def operand(self, tensor: torch.Tensor) -> Operand:
        """Return a tensor as an argument of an operation."""
        return Operand(self.read(tensor), tuple(tensor.shape), tensor.dtype)

    def is_symbolic(self, *tensors: torch.Tensor) -> bool:
        """Whether there is a tensor among some whose numbers are not in memory."""
        return any(each.is_meta or self.storage(each) is not None for each in tensors)

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operation:
        """Return a call with the contents of its tensors."""
        return Operation(func, *mapped(torch.Tensor, self.operand, args, kwargs))


def _whole(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return all of the memory of a tensor."""
    memory = tensor.untyped_storage()
    dtype = dtype or tensor.dtype
    whole = torch.empty(0, dtype=dtype, device=tensor.device)
    whole.set_(memory, 0, (memory.nbytes() // dtype.itemsize,), (1,))
    return whole


def _numbers_in(tensor: torch.Tensor) -> Content:
    """Return the content of a tensor whose numbers are in memory."""
    if tensor.dtype in _DRAWN and tensor.numel() and bool((tensor == tensor[0]).all()):
        return Fixed(Constant(float(tensor[0])))
    return Literal(tensor.clone())


def _spoil(tensor: torch.Tensor) -> None:
    """Fill a tensor whose random numbers are not drawn with NaN: code that uses them outside of torch is noticed."""
    if not tensor.is_meta and tensor.is_floating_point():
        with _disable_current_modes(), torch.no_grad():
            tensor.detach().fill_(math.nan)


def _rounded(value: float, dtype: torch.dtype) -> float | None:
    """Return a number as a tensor of a dtype holds it; None if that is no real number."""
    if dtype.is_complex or isinstance(value, complex):
        return None
    with _disable_current_modes():
        rounded = float(torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None).to(dtype))
    return float(value) if dtype in _DRAWN and math.isfinite(rounded) else rounded


def _constant(value: float, dtype: torch.dtype) -> Content:
    """Return the content of a tensor of a dtype that is filled with a number."""
    if dtype in _DRAWN and isinstance(value, bool | int | float) and abs(value) < 1e4:
        return Fixed(Constant(float(value)))
    rounded = _rounded(value, dtype)
    return Unknown("it is complex") if rounded is None else Fixed(Constant(rounded))


def _cast(content: Content, sizes: tuple[int, ...], source: torch.dtype, dtype: torch.dtype) -> Content:
    """Return a content of some sizes that is converted to another dtype.

    A law is one in any dtype of floating point. Numbers are rounded, and so is what becomes an integer.
    """
    if source == dtype or isinstance(content, Unwritten | Unknown):
        return content
    match content:
        case Fixed(Constant(value)):
            return _constant(value, dtype)
        case Literal(tensor):
            with _disable_current_modes():
                return Literal(tensor.to(dtype))
        case Drawn() | Fixed() | Copied() if dtype in _DRAWN and source in _DRAWN:
            return content
    return Computed(Operation(aten._to_copy.default, (Operand(content, sizes, source),), {"dtype": dtype}))


def _line(depth: int = 3) -> Line | None:
    """Return the line of the model's code that is being run."""
    frame = sys._getframe(depth)
    while frame is not None:
        name = frame.f_code.co_filename
        if not _PASSED_OVER[name]:
            return Line(name, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


class _PassedOver(dict[str, bool]):
    """Whether the lines of a file say nothing of a model, by its name."""

    def __missing__(self, name: str) -> bool:
        of_torch = name.startswith(_TORCH) and not name.startswith(_MODULES)
        self[name] = known = of_torch or name.startswith((_OWN[0], "<")) or name.endswith(_OWN[1:])
        return known


_PASSED_OVER = _PassedOver()


# Operators -----------------------------------------------------------------------------------------------------------


def _pass(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operator that writes nothing: a view, or a question."""
    del recorder
    return func(*args, **kwargs)


def _allocate(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operator that makes a tensor of any values."""
    out = func(*args, **kwargs)
    if out.is_meta:
        recorder.allocate(out)
    return out


def _filling(value: Callable[..., float]) -> Handler:
    """Return the handler of an operator that makes a tensor of one value."""

    def handle(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if out.is_meta:
            recorder.write(out, _constant(value(*args), out.dtype))
        return out

    return handle


def _making(law: Callable[..., Law]) -> Handler:
    """Return the handler of an operator that makes a tensor of random numbers: the tensor is made, and not filled."""

    def handle(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        del func
        given = law(*args)
        options = {key: value for key, value in kwargs.items() if key in {"dtype", "layout", "device", "pin_memory"}}
        like = args[0] if isinstance(args[0], torch.Tensor) else None
        sizes = next((each for each in args if isinstance(each, list | tuple)), ())
        out = torch.empty_like(like, **options) if like is not None else torch.empty(sizes, **options)
        recorder.write(out, Drawn(given, Draw()))
        return out

    return handle


def _drawing(law: Callable[..., Law]) -> Handler:
    """Return the handler of an operator that fills a tensor with random numbers."""

    def handle(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        del func
        given = {key: value for key, value in kwargs.items() if key != "generator"}
        recorder.write(args[0], Drawn(law(*args[1:], **given), Draw()))
        return args[0]

    return handle


def _fill(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record ``fill_`` and ``zero_``."""
    target = args[0]
    value = args[1] if len(args) > 1 else 0.0
    if isinstance(value, torch.Tensor):
        if (number := _number(recorder, value)) is None:
            return _changing(recorder, func, args, kwargs)
        value = number
    if not target.is_meta:
        func(*args, **kwargs)
    recorder.write(target, _constant(value, target.dtype))
    return target


def _eye(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record ``torch.eye``."""
    out = func(*args, **kwargs)
    if out.is_meta:
        if out.dtype not in _DRAWN:
            recorder.write(out, Computed(Operation(func, args, kwargs)))
        else:
            recorder.write(out, Fixed(Diagonal("eye")))
    return out


def _item(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the number of a tensor that has one element, if it is known without random numbers."""
    (tensor,) = args
    if not recorder.is_symbolic(tensor):
        return func(*args, **kwargs)
    number = _number(recorder, tensor)
    if number is None:
        raise ValueError(
            f"the model's code asks for the number of a tensor, which a recording does not have ({_line(2)}): it is "
            "computed from random numbers, or by an operator that is not evaluated while a model is recorded"
        )
    with _disable_current_modes():
        return torch.tensor(number, dtype=torch.float64).to(tensor.dtype).item()


def _copy(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record ``copy_``."""
    target, source = args[:2]
    if not recorder.is_symbolic(target, source):
        return func(*args, **kwargs)
    content = recorder.read(source if source.shape == target.shape else source.expand(target.shape))
    content = _cast(content, tuple(target.shape), source.dtype, target.dtype)
    if target.is_meta or not source.is_meta:
        func(*args, **kwargs)
    _assign(recorder, target, content)
    return target


def _clone(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record what makes a copy: ``clone``, and a cast to another dtype or device."""
    source = args[0]
    if not recorder.is_symbolic(source):
        out = func(*args, **kwargs)
        if out.is_meta:
            recorder.write(out, _cast(Literal(source.detach().clone()), (), source.dtype, out.dtype))
        return out
    content = recorder.read(source)
    if not source.is_meta or kwargs.get("device") in (None, source.device, torch.device("meta"), "meta"):
        out = func(*args, **kwargs)
    else:
        out = torch.empty(source.shape, dtype=kwargs.get("dtype") or source.dtype, device=kwargs["device"])
    _assign(recorder, out, _cast(content, tuple(source.shape), source.dtype, out.dtype))
    return out


def _joined(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record ``cat`` and ``stack``: a write for each of the tensors that are joined."""
    tensors = [each for each in args[0] if each.numel()]
    out: torch.Tensor = func(*args, **kwargs)
    if not recorder.is_symbolic(*tensors):
        return out
    if any(each.dtype != out.dtype for each in tensors):
        return _computing(recorder, func, args, kwargs)
    contents = [recorder.read(each) for each in tensors]
    recorder.write(out, UNWRITTEN)
    dim, start = (args[1] if len(args) > 1 else kwargs.get("dim", 0)), 0
    for each, content in zip(tensors, contents, strict=True):
        size = 1 if func is aten.stack.default else each.shape[dim]
        place = out.narrow(dim, start, size)
        recorder.write(place.squeeze(dim) if func is aten.stack.default else place, content)
        start += size
    return out


def _assign(recorder: Recorder, target: torch.Tensor, content: Content) -> None:
    """Write a copy of a content: all writes of a storage, if it is all of one."""
    if isinstance(content, Copied) and content.size == content.view.size and content.view.is_contiguous:
        recorder.write(target, UNWRITTEN)
        storage = recorder.storage(target)
        view = View.of(target)
        if storage is not None and storage.size == view.size and view.is_contiguous:
            storage.writes = content.writes
            return
    recorder.write(target, content)


def _number(recorder: Recorder, value: Any) -> float | None:
    """Return a number, or that of a tensor of one element; None if it is not known."""
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        return None
    match recorder.read(value):
        case Fixed(Constant(number)):
            return number
        case Literal(tensor) if not tensor.is_complex():
            return float(tensor)
    return None


Map = Callable[..., tuple[float, float] | None]


def _affine(of: Map) -> Handler:
    """Return the handler of an operator that computes ``scale * x + shift``, in place or not."""

    def handle(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        numbers = [_number(recorder, each) for each in args[1:]]
        source = args[0]
        known = isinstance(source, torch.Tensor) and recorder.is_symbolic(source)
        content = recorder.read(source) if known else None
        factors = of(*numbers, **kwargs) if known and None not in numbers else None
        law = getattr(content, "law", None)
        new = law.affine(*factors) if law is not None and factors is not None else None
        if isinstance(content, Drawn) and factors is not None and factors[0] < 0:
            content = replace(content, key=(*content.key, NEGATED))  # no law says which numbers are whose negatives
        return _with_law(recorder, func, args, kwargs, source, content, new)

    return handle


def _mapping(of: Callable[..., Law | None]) -> Handler:
    """Return the handler of an operator that makes one law of another."""

    def handle(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        content = recorder.read(args[0]) if recorder.is_symbolic(args[0]) else None
        law = getattr(content, "law", None)
        new = of(law, *args[1:], **kwargs) if law is not None else None
        return _with_law(recorder, func, args, kwargs, args[0], content, new)

    return handle


def _with_law(
    recorder: Recorder,
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    source: torch.Tensor,
    content: Content | None,
    law: Law | None,
) -> Any:
    """Run an operator on a tensor, and write its result, which has a law unless it is None."""
    in_place = func._schema.is_mutable
    if law is None or content is None or source.dtype not in _DRAWN:
        return (_changing if in_place else _computing)(recorder, func, args, kwargs)
    constant = isinstance(law, Constant) or not isinstance(content, Drawn)
    new = Fixed(law) if constant else Drawn(law, content.draw, content.key)  # type: ignore[union-attr]
    out = source if in_place and source.is_meta else func(*args, **kwargs)
    if constant and not out.is_meta:
        out.fill_(law.value) if isinstance(law, Constant) else None
    recorder.write(out, new)
    return out


def _changing(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record any operator that changes some of its arguments."""
    if not recorder.is_symbolic(*instances(torch.Tensor, args, kwargs)):
        return func(*args, **kwargs)
    operation = None if _is_random(func) else recorder.operation(func, args, kwargs)
    out = func(*args, **kwargs)
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        where = place if place < len(args) else argument.name
        target = args[place] if place < len(args) else kwargs.get(argument.name)
        if not isinstance(target, torch.Tensor):
            continue
        if operation is None:
            recorder.write(target, Unknown(f"no scheme draws the random numbers of {func}"))
        else:
            recorder.write(target, _folded(func, operation, target) or Computed(operation, changed=where))
    return out


def _computing(recorder: Recorder, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Record any operator that returns new tensors."""
    symbolic = recorder.is_symbolic(*instances(torch.Tensor, args, kwargs))
    out = func(*args, **kwargs)
    several = isinstance(out, tuple | list)
    outputs = out if several else [out]
    if not symbolic and not any(isinstance(each, torch.Tensor) and each.is_meta for each in outputs):
        return out
    if _is_random(func):
        content: Content | None = Unknown(f"no scheme draws the random numbers of {func}")
        operation = None
    else:
        content, operation = None, recorder.operation(func, args, kwargs)
    for index, each in enumerate(outputs):
        if not isinstance(each, torch.Tensor) or recorder.storage(each) is not None:
            continue
        if operation is None:
            recorder.write(each, content)  # type: ignore[arg-type]
        else:
            folded = None if several else _folded(func, operation, each)
            recorder.write(each, folded or Computed(operation, index if several else None))
    return out


def _folded(func: Any, operation: Operation, out: torch.Tensor) -> Content | None:
    """Return the constant that an elementwise operator makes of constants, or None."""
    if not _is_pointwise(func) or not (operands := operation.operands):
        return None
    if not all(isinstance(each.content, Fixed) and isinstance(each.content.law, Constant) for each in operands):
        return None

    def single(operand: Operand) -> torch.Tensor:
        value = operand.content.law.value  # type: ignore[union-attr]
        return torch.full((), value, dtype=operand.dtype, device="cpu")

    with _disable_current_modes():
        args, kwargs = operation.call(single)
        kwargs.pop("device", None)
        try:
            value = func(*args, **kwargs)
        except (RuntimeError, TypeError):
            return None
    return None if out.dtype == torch.bool or value.is_complex() else Fixed(Constant(float(value)))


@cache
def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


@cache
def _is_pointwise(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags


def _handler_of(func: Any) -> Handler:
    """Return the handler of an operator that is not in the table."""
    schema = func._schema
    if schema.is_mutable:
        return _changing
    if any(each.alias_info is not None for each in schema.returns):
        return _pass  # a view
    if not any("Tensor" in str(each.type) for each in schema.returns):
        return _pass
    return _computing


_HANDLERS: dict[Any, Handler] = {}


def _add(names: Sequence[str], handler: Handler) -> None:
    for name in names:
        packet, _, overload = name.partition(".")
        operator = getattr(aten, packet, None)
        if operator is None:
            continue
        overloads = [overload] if overload else operator.overloads()
        for each in overloads:
            if "out" not in each:
                _HANDLERS[getattr(operator, each)] = handler


_add(["empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"], _allocate)
_add(["zeros", "zeros_like", "new_zeros"], _filling(lambda *_: 0.0))
_add(["ones", "ones_like", "new_ones"], _filling(lambda *_: 1.0))
_add(["full", "full_like"], _filling(lambda _like, value, *_: value))
_add(["new_full"], _filling(lambda _like, _sizes, value, *_: value))
_add(["scalar_tensor"], _filling(lambda value, *_: value))
_add(["randn", "randn_like"], _making(lambda *_: Normal(0.0, 1.0)))
_add(["rand", "rand_like"], _making(lambda *_: Uniform(0.0, 1.0)))
_add(["normal.float_float"], _making(lambda mean, std, *_: Normal(float(mean), float(std))))
_add(["normal_"], _drawing(lambda mean=0.0, std=1.0: Normal(float(mean), float(std))))
_add(
    ["uniform_"],
    _drawing(lambda low=0.0, high=1.0, **names: Uniform(float(names.get("from", low)), float(names.get("to", high)))),
)
_add(["fill_", "zero_"], _fill)
_add(["eye"], _eye)
# They change which memory a tensor has, or how it looks at it, and write nothing.
_add(["set_", "t_", "transpose_", "swapaxes_", "squeeze_", "unsqueeze_", "as_strided_", "detach_"], _pass)
_add(["_local_scalar_dense"], _item)
_add(["copy_"], _copy)
_add(["cat", "stack"], _joined)
_add(["clone", "_to_copy", "lift_fresh_copy"], _clone)
_add(["mul", "mul_"], _affine(lambda other: (other, 0.0)))
_add(
    ["div.Tensor", "div_.Tensor", "div.Scalar", "div_.Scalar"],
    _affine(lambda other: (1.0 / other, 0.0) if other else None),
)
_add(["add", "add_"], _affine(lambda other, *, alpha=1: (1.0, alpha * other)))
_add(["sub", "sub_"], _affine(lambda other, *, alpha=1: (1.0, -alpha * other)))
_add(["rsub"], _affine(lambda other, alpha=1: (-alpha, other)))
_add(["neg", "neg_"], _affine(lambda: (-1.0, 0.0)))


def _clamped(law: Law, low: Any = None, high: Any = None, **names: Any) -> Law | None:
    low, high = names.get("min", low), names.get("max", high)
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        return None
    return law.clamped(float("-inf") if low is None else float(low), float("inf") if high is None else float(high))


_add(["clamp", "clamp_"], _mapping(_clamped))
_add(["clamp_min", "clamp_min_"], _mapping(_clamped))
_add(["clamp_max", "clamp_max_"], _mapping(lambda law, high: _clamped(law, None, high)))
_add(["erfinv", "erfinv_", "special_erfinv"], _mapping(lambda law: law.erfinv()))
