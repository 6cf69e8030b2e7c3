"""Numbers of recorded contents: operations are run again on real tensors, and draws are drawn."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from weightwell.recorder.laws import Constant
from weightwell.recorder.storages import (
    Computed,
    Content,
    Copied,
    Drawn,
    Fixed,
    Literal,
    Operand,
    Operation,
    Unknown,
    Unwritten,
    View,
)

Draws = Callable[[Drawn | Fixed, tuple[int, ...], torch.dtype], torch.Tensor]
"""Return the numbers of a law in a tensor of some sizes and dtype."""


class NoNumbers(ValueError):
    """Numbers that cannot be known."""


def contents(content: Content) -> Iterator[Content]:
    """Yield a content and all that it was computed from, each once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, Computed):
            waiting += [operand.content for operand in each.operation.operands]
        elif isinstance(each, Copied):
            waiting += [write.content for write in each.writes]


class Evaluation:
    """Evaluates contents on a device; what was computed once is kept. ``draws`` draws random numbers."""

    def __init__(self, draws: Draws, device: torch.device | str = "cpu"):
        self._draws = draws
        self._device = torch.device(device)
        self._results: dict[int, tuple[Operation, Any, tuple[Any, ...], dict[str, Any]]] = {}

    def tensor(self, content: Content, sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return the numbers of a content, a tensor of some sizes and dtype; raise ``NoNumbers`` if there are none."""
        with torch.no_grad():
            return self._tensor(content, sizes, dtype).reshape(sizes).to(device=self._device, dtype=dtype)

    def _tensor(self, content: Content, sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        match content:
            case Fixed(Constant(value)):
                return torch.full(sizes, value, dtype=dtype, device=self._device)
            case Drawn() | Fixed():
                return self._draws(content, sizes, dtype)
            case Literal(tensor):
                return tensor
            case Computed():
                return self._computed(content)
            case Copied():
                return self._copied(content)
            case Unwritten():
                raise NoNumbers("it was never written")
            case Unknown(why):
                raise NoNumbers(why)
        raise TypeError(f"{content!r:.80}")

    def _computed(self, content: Computed) -> torch.Tensor:
        operation = content.operation
        if id(operation) not in self._results:
            arguments, keywords = operation.call(self._argument)
            if "device" in keywords:
                keywords["device"] = self._device
            result = operation.function(*arguments, **keywords)
            self._results[id(operation)] = operation, result, arguments, keywords
        _, result, arguments, keywords = self._results[id(operation)]
        if isinstance(content.changed, int):
            return arguments[content.changed]  # type: ignore[no-any-return]
        if content.changed is not None:
            return keywords[content.changed]  # type: ignore[no-any-return]
        return result if content.output is None else result[content.output]  # type: ignore[no-any-return]

    def _argument(self, operand: Operand) -> torch.Tensor:
        """Return a tensor that an operation may change; one that was not written is what it writes."""
        if isinstance(operand.content, Unwritten):
            return torch.zeros(operand.sizes, dtype=operand.dtype, device=self._device)
        return self.tensor(*operand).clone()

    def _copied(self, content: Copied) -> torch.Tensor:
        memory = torch.zeros(content.size, dtype=content.dtype, device=self._device)
        written = torch.zeros(content.size, dtype=torch.bool, device=self._device)
        for write in content.writes:
            if not isinstance(write.content, Unwritten):
                _part(memory, write.view).copy_(self.tensor(write.content, write.view.sizes, content.dtype))
                _part(written, write.view).fill_(True)
        if not _part(written, content.view).all():
            raise NoNumbers("some of its elements were never written")
        return _part(memory, content.view)


def _part(memory: torch.Tensor, view: View) -> torch.Tensor:
    return memory.as_strided(view.sizes, view.strides, view.offset)
