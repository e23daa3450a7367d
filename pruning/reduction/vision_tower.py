"""Ranking by the vision tower of a vision-language model, before its language model has seen a token (VisionZip)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.anatomy.anatomy import read_anatomy
from pruning.reduction.projections import Projections, read_projections
from pruning.reduction.ranking_check import check_attention
from pruning.reduction.scores import compute_attention_weights
from pruning.reduction.sequence import Sequence, take
from search_spaces.errors import ArchitectureError, BadData

_TOWERS = ("vision_tower", "vision_model", "visual")
_CLASS_TOKENS = ("class_embedding", "cls_token")


@dataclass(frozen=True)
class Tower:
    """The block of a vision tower whose output a language model is given, and its queries and keys."""

    block: nn.Module
    projections: Projections


@dataclass(frozen=True)
class Sight:
    """What one pass of the tower says of I images of P patches.

    Attributes:
        scores: (I, P) attention of the class token, averaged over heads.
        metric: (I, P, D) keys averaged over heads.
    """

    scores: Tensor
    metric: Tensor

    def spread(self, tokens: Sequence, whole: Sequence) -> tuple[Tensor, Tensor]:
        """(B, T) scores and (B, T, D) metric of the tokens that are left; those that always stay have any.

        Rows of one image list (beams) are told apart by their number alone.
        """
        image = ~whole.protected
        rows = self.scores.numel() // whole.count
        repeats = image.shape[0] // rows
        scores = self.scores.reshape(rows, -1).repeat_interleave(repeats, dim=0)
        metric = self.metric.reshape(rows, -1, self.metric.shape[-1]).repeat_interleave(repeats, dim=0)
        number = (image.long().cumsum(1) - 1).clamp(min=0)
        indices = tokens.indices.expand(image.shape[0], -1)
        number = take(number, indices)
        return take(scores, number), take(metric, number)


def read_tower(model: Any) -> Tower:
    """The tower of a vision-language model.

    Raises:
        ArchitectureError: no tower, no class token in it, or not exactly its patches become tokens.
        UnreadableModel: from `check_attention`.
    """
    base = model.base_model
    tower = next((getattr(base, name) for name in _TOWERS if getattr(base, name, None) is not None), None)
    if tower is None or not any(name.endswith(_CLASS_TOKENS) for name, _ in tower.named_parameters()):
        raise ArchitectureError(
            f"{type(model).__name__} has no vision tower with a class token to ask; rank tokens by the next block"
        )
    layer = getattr(model.config, "vision_feature_layer", None)
    if not isinstance(layer, int) or getattr(model.config, "vision_feature_select_strategy", "") != "default":
        raise ArchitectureError(
            f"{type(model).__name__} gives its language model more than the patches of one layer "
            f"(vision_feature_layer {layer!r}); rank tokens by the next block"
        )
    anatomy = read_anatomy(tower)
    index = anatomy.depth + layer if layer < 0 else layer - 1
    check_attention(tower, anatomy, [index])
    block = tower.get_submodule(anatomy.stack)[index]
    return Tower(block, read_projections(block, anatomy.blocks[index]))


class TowerWatch:
    """The hook on the tower's block; keeps what the last pass of the tower said."""

    def __init__(self, projections: Projections) -> None:
        self.projections = projections
        self.sight: Sight | None = None

    def read_scores(self, tokens: Sequence, whole: Sequence) -> tuple[Tensor, Tensor]:
        """`Sight.spread` of the last pass of the tower.

        Raises:
            BadData: it saw no images, or not as many patches as the prompts have image tokens.
        """
        patches = 0 if self.sight is None else self.sight.scores.numel()
        if self.sight is None or patches % whole.count or whole.protected.shape[0] % (patches // whole.count):
            raise BadData(
                f"the vision tower saw {patches} patches and a prompt has {whole.count} image tokens: it ranks images "
                "that it has seen; pass pixel_values"
            )
        return self.sight.spread(tokens, whole)

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """As `nn.Module.register_forward_pre_hook` calls it, before the block runs."""
        hidden = args[0] if args else kwargs["hidden_states"]
        normed = self.projections.normalise(hidden)
        keys = self.projections.project_keys(normed)
        queries = self.projections.project_queries(normed[:, :1])
        received = compute_attention_weights(queries, keys, self.projections.scaling, self.projections.softcap)
        self.sight = Sight(received[:, 0, 1:], keys.mean(1)[:, 1:])
