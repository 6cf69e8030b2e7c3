"""Numbers: the values of tensors that a model's code computes, as the scheme ``values`` has them."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch

from weightwell.recorder.draws import draw
from weightwell.recorder.evaluation import Evaluation
from weightwell.recorder.laws import Constant, Fields, Law
from weightwell.recorder.parameters import Key, Recorded, Stream
from weightwell.recorder.storages import Drawn, Fixed, Taken

# Most numbers that a manifest has of one tensor, as the server has it.
MAX_VALUES = 65_536

# Numbers of a tensor that are computed to see whether it repeats few of them.
_MOST_EVALUATED = 1 << 26


class Computation:
    """The numbers of a tensor that a model's code computes, from others of its own or from random ones.

    They are computed when they are needed, with torch on the CPU. If random numbers are among what they are computed
    from, those are of the manifest's seed.
    """

    def __init__(self, recorded: Recorded, streams: Mapping[Key, Stream]):
        self._recorded = recorded
        self._streams = streams

    def numbers(self, seed: int) -> torch.Tensor:
        """Return the numbers, a tensor of the shape and the dtype of the tensor that holds them."""
        each = self._recorded
        return evaluation(self._streams, seed).tensor(each.content, each.shape, each.dtype)

    def fields(self, seed: int) -> Fields:
        """Return the scheme of a tensor of these numbers; raise ValueError if they are too many for a manifest."""
        numbers = self.numbers(seed) if prod(self._recorded.shape) <= _MOST_EVALUATED else None
        if numbers is None:
            raise ValueError(self._too_many())
        if numbers.is_floating_point() and not bool(numbers.isfinite().all()):
            raise ValueError(f"{self._recorded.name} holds numbers that are not finite ({self._recorded.where})")
        for axis, size in enumerate(numbers.shape):
            if size > 1 and bool((numbers == numbers.narrow(axis, 0, 1)).all()):
                numbers = numbers.narrow(axis, 0, 1)
        if numbers.numel() > MAX_VALUES:
            raise ValueError(self._too_many())
        values = (numbers.double() if numbers.is_floating_point() else numbers).flatten().tolist()
        if len(values) == 1:
            return Constant(float(values[0])).fields(tuple(numbers.shape)) or {"scheme": "values", "values": values}
        dims = {"dims": list(numbers.shape)} if tuple(numbers.shape) != self._recorded.shape else {}
        return {"scheme": "values", "values": values, **dims}

    def _too_many(self) -> str:
        each = self._recorded
        return (
            f"{each.name} holds {prod(each.shape)} numbers that the model's code computes ({each.where}), and a "
            f"manifest has at most {MAX_VALUES} of one tensor; init_module_ computes them, or take the tensor out of "
            "manifest.tensors"
        )

    def __repr__(self) -> str:
        return f"<computed by {self._recorded.where}>"


def evaluation(streams: Mapping[Key, Stream], seed: int) -> Evaluation:
    """Return the evaluation of what was recorded, with the random numbers of a seed."""

    def drawn(content: Drawn | Fixed, sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if isinstance(content, Fixed):
            return of_stream(content.law, Stream("fixed", None, None), sizes, dtype)
        if (stream := streams.get((content.draw, content.key))) is not None:
            return of_stream(content.law, stream, sizes, dtype)
        step, of = content.key[-1], replace(content, key=content.key[:-1])
        if isinstance(step, Taken):
            whole = drawn(of, step.whole.sizes, dtype)
            memory = whole.new_zeros(step.size)
            memory.as_strided(step.whole.sizes, step.whole.strides, step.whole.offset).copy_(whole)
            return memory.as_strided(step.view.sizes, step.view.strides, step.view.offset).reshape(sizes)
        opposite = content.law.affine(-1.0, 0.0)
        if opposite is None:
            raise ValueError(f"no scheme draws the negative of {content.law}")
        return -drawn(replace(of, law=opposite), sizes, dtype)

    def of_stream(law: Law, stream: Stream, sizes: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        shape = stream.shape or sizes
        fields = law.fields(shape)
        if fields is None:
            raise ValueError(f"no scheme draws {law} in the shape {list(shape)}")
        return draw(fields, shape, stream.name, seed, stream.dtype or dtype).reshape(sizes).to(dtype)

    return Evaluation(drawn)
