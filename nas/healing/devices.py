"""Where training runs, through Accelerate: the device, its arithmetic, and other processes that share the work."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nas.healing.recipe import Recipe
from nas.request.choices import LORA
from pruning.inference.device import AUTO, CPU, find_device, has_bf16, make_usual, place
from search_spaces.errors import MissingExtra

if TYPE_CHECKING:
    from accelerate import Accelerator


def open_accelerator(recipe: Recipe) -> "Accelerator":
    """The accelerator of this process, on the recipe's device; products in bf16 where the device has them.

    Raises:
        UsageError: the device is not here.
    """
    from accelerate import Accelerator

    device = find_device(recipe.device)
    if recipe.device != AUTO:
        make_usual(device)
    return Accelerator(
        cpu=device.type == CPU, mixed_precision="bf16" if has_bf16(device) else "no",
        gradient_accumulation_steps=recipe.accumulation,
    )  # fmt: skip


def check_installed(trained: str) -> None:
    """Find out before the work begins whether the packages that training takes are there.

    Args:
        trained: what is to be trained.

    Raises:
        MissingExtra: one is not.
    """
    needed = ["accelerate", *(["peft"] if trained == LORA else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"healing needs {' and '.join(missing)}; install with: pip install 'nas[heal]'")


def place_copy(model: Any, device: torch.device) -> Any:
    """A model on a device: itself where that is the CPU, else a copy, since other models may have its weights."""
    return place(model, device)


def average_gradients(accelerator: "Accelerator", parameters: Iterable[nn.Parameter]) -> None:
    """Let every process have the mean of the gradients of all."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")


@contextmanager
def take_cpu_inputs(model: Any, device: torch.device) -> Iterator[None]:
    """Let a model on a device be given inputs on the CPU, and give its outputs there."""
    if device.type == "cpu":
        yield
        return
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    modules = list(dict.fromkeys([model, model.base_model]))
    for module in modules:
        add_hook_to_module(module, AlignDevicesHook(execution_device=device, io_same_device=True))
    try:
        yield
    finally:
        for module in modules:
            remove_hook_from_module(module)
