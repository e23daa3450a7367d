"""The weights that rank tokens where the attention they belong to is no longer in the model."""

from dataclasses import replace

import torch
from torch import nn

from pruning.reduction.projections import Projections, Rows

NAME = "token_ranker"  # in the names of its weights


class Ranker(nn.Module):
    """Norm, queries and keys of a dropped attention: what a stage of token reduction still needs of it."""

    def __init__(self, projections: Projections, norm_stays: bool, asks: bool) -> None:
        """Take over what the model loses.

        Args:
            projections: of the attention that goes.
            norm_stays: its norm is still in the model, as it feeds another part too.
            asks: queries are needed; keys always are.
        """
        super().__init__()
        self.before = None if norm_stays else projections.norm
        self.query = _select_rows(projections.query) if asks else None
        self.key = _select_rows(projections.key)
        self.query_norm = projections.query_norm if asks else None
        self.key_norm = projections.key_norm
        self.asks = asks

    def take(self, projections: Projections) -> Projections:
        """The same projections, from this module's weights."""
        key = Rows(self.key, 0, self.key.out_features)
        query = key if self.query is None else Rows(self.query, 0, self.query.out_features)
        return replace(projections, query=query, key=key)


def _select_rows(rows: Rows) -> nn.Linear:
    """A layer of exactly these rows: the original one where it has no others."""
    if isinstance(rows.module, nn.Linear) and rows.heads == 1 and rows.stop - rows.start == rows.module.out_features:
        return rows.module
    with torch.no_grad():
        weight, bias = rows.cut()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
        layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
