"""Low-rank adapters (LoRA, Hu et al., 2021) of the linear modules of a model, put in place and merged by PEFT."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

RANK = 16
_NAME = "default"


def find_linear_modules(model: Any, stack: str) -> list[str]:
    """Paths of all linear modules in the blocks of a model, GPT-2's turned ones among them."""
    from transformers.pytorch_utils import Conv1D

    blocks = model.get_submodule(stack)
    return [f"{stack}.{path}" for path, each in blocks.named_modules() if isinstance(each, nn.Linear | Conv1D)]


def inject_adapters(model: Any, paths: Sequence[str], seed: int) -> None:
    """Let modules compute Wx + (α / r) B A x, with A random and B zero: the model stays what it was.

    Only A and B, `lora_A` and `lora_B` in names of parameters, take gradients.

    Args:
        model: changed.
        paths: of its linear modules.
        seed: of A.
    """
    from peft import LoraConfig, inject_adapter_in_model

    turned = not isinstance(model.get_submodule(paths[0]), nn.Linear)  # a block has modules of one kind
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(paths), fan_in_fan_out=turned)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, _NAME)


def merge_adapters(model: Any, paths: Sequence[str]) -> None:
    """Put plain modules with W + (α / r) B A in the places of those that carry adapters.

    The old W stays what it is, as other models may have it too.
    """
    for path in paths:
        carrier = model.get_submodule(path)
        plain = carrier.get_base_layer()
        plain.weight = nn.Parameter(plain.weight + carrier.get_delta_weight(_NAME), requires_grad=False)
        model.set_submodule(path, plain)
