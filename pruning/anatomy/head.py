"""The head of a model: the linear module that makes its outputs of what leaves the blocks."""

from typing import Any

import torch
from torch import nn

from pruning.anatomy.contribution import BlockAnatomy, Contribution, Layout
from pruning.anatomy.probe import make_probe_inputs, run_or_refuse, switch_to_eval_mode
from pruning.surgery.linear import is_linear
from search_spaces.kinds import AFTER_BLOCKS, Kind


def find_head(model: Any) -> str | None:
    """The path of a language model's output embeddings or of a classifier; None where it is no linear module."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    head = head if head is not None else getattr(model, "classifier", None)
    if not isinstance(head, nn.Module) or not is_linear(head):
        return None
    return next((path for path, module in model.named_modules() if module is head), None)


def read_head(model: Any, layout: Layout, width: int, **settings: Any) -> BlockAnatomy | None:
    """What of a model's head may be chosen for, as a block's; None where it has none, or does not call it.

    Args:
        layout: of the blocks.
        width: of the residual stream.
        settings: with which the model is run on a tiny input.
    """
    path = find_head(model)
    if path is None or not _is_called(model, path, settings):
        return None
    head = Contribution(writes=path, members=(path,), forms=(), after=(), before=None, closes=None, projection=path)
    return BlockAnatomy(AFTER_BLOCKS, layout, width, {Kind.HEAD: head})


@torch.no_grad()
def _is_called(model: Any, path: str, settings: dict[str, Any]) -> bool:
    """Whether a run calls a module, so that another one in its place is called, too."""
    calls: list[nn.Module] = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: calls.append(module))
    try:
        with switch_to_eval_mode(model):
            run_or_refuse(model, **make_probe_inputs(model), **settings)
    finally:
        handle.remove()
    return len(calls) == 1
