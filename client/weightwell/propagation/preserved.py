"""Restore the state of a model and of torch after a measurement, even after an error."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


def check_values(model: nn.Module) -> None:
    """Raise ValueError if a parameter or a buffer has no values, or cannot be differentiated through."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(f"{name} has no shape yet: call the model once, with a batch, and then measure it")
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device and has no values: fill the model first, for example with "
                "weightwell.local().init_module_(model, device='cpu')"
            )
        if tensor.is_inference():
            raise ValueError(f"{name} was made in torch.inference_mode(): build the model outside of it")


@contextmanager
def preserved(model: nn.Module, seed: int) -> Iterator[None]:
    """Within the context: gradients are recorded, no parameter requires one, and torch's generators are seeded.

    At its end, buffers, such as the running statistics of BatchNorm, have their values of before, parameters require
    gradients as before, and the generators have their states of before.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(seeded(seed))
        stack.enter_context(_eager(model))
        stack.enter_context(_buffers(model))
        stack.enter_context(_frozen(model))
        if any(isinstance(each, nn.RNNBase) and not each.training for each in model.modules()):
            # cuDNN has no backward pass of an RNN in evaluation mode.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators of the CPU and of CUDA, and restore their states at the end."""
    # torch.manual_seed would also seed devices that nobody uses yet.
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else range(0)
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Run modules of torch.compile without compilation, which would skip hooks."""
    if any(hasattr(each, "_orig_mod") or each._compiled_call_impl is not None for each in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a model at the end: the tensors, and their values."""
    before = [(each, dict(each._buffers)) for each in model.modules() if each._buffers]
    copies = [(tensor, tensor.detach().clone()) for tensor in model.buffers()]
    try:
        yield
    finally:
        for module, buffers in before:
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, values in copies:
                tensor.copy_(values)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient: none is computed, and the inputs of layers are not kept for it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
