"""Which experts of a mixture can be spared: by what they add to the tokens that are sent to them (REAP)."""

from typing import Any

import torch
from torch import Tensor, nn

from pruning.surgery.channel_order import ChannelOrder

_NAME = "reap"  # as records have it


@torch.no_grad()
def order_experts(module: nn.Module, args: tuple[Any, ...], real: Tensor) -> ChannelOrder | None:
    """The experts, the one that is needed most first; of equal ones, the first. None for calls of another form.

    What counts of an expert is the mean, over the tokens that are sent to it, of its weight times the norm of its
    output (REAP, Lasby et al. 2025); an expert that no token is sent to counts nothing.

    Args:
        module: of all experts, which is called with states (tokens, d), the experts that each token is sent to
            (tokens, k) and their weights (tokens, k).
        args: of one such call.
        real: (tokens,) bool, those that are no padding.
    """
    found = _read_call(args)
    if found is None or len(found[0]) != len(real):
        return None
    states, chosen, weights = found
    saliency = torch.zeros(len(next(module.parameters())), dtype=torch.float64)
    for expert in range(len(saliency)):
        sent, place = torch.where((chosen == expert) & real[:, None].to(chosen.device))
        if len(sent):
            alone = torch.full((len(sent), 1), expert, dtype=chosen.dtype, device=chosen.device)
            output: Tensor = module.forward(states[sent], alone, torch.ones_like(alone, dtype=weights.dtype))
            norms = torch.linalg.vector_norm(output, dim=1, dtype=torch.float64)
            saliency[expert] = (weights[sent, place].double().abs() * norms).mean().cpu()
    return ChannelOrder(saliency.sort(descending=True, stable=True).indices, _NAME)


def _read_call(args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor] | None:
    """States, chosen experts and their weights; None where a call has others."""
    if len(args) != 3 or not all(isinstance(each, Tensor) for each in args):
        return None
    states, chosen, weights = args
    fits = states.ndim == chosen.ndim == 2 and weights.shape == chosen.shape and len(states) == len(chosen)
    return (states, chosen, weights) if fits and not chosen.is_floating_point() else None
