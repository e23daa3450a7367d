"""Which tokens of a sequence may be dropped, and which always stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.language_model import count_prompt_image_tokens
from pruning.anatomy.part import is_vision_language
from search_spaces.errors import BadData, UnreadableModel

SINKS = 4  # the first tokens of a prompt, which attract attention whatever they say (StreamingLLM, Xiao et al. 2023)
RECENT = 32  # the last tokens of a prompt


class Group(StrEnum):
    """What the droppable tokens are.

    Example:
        >>> TokenLayout(Group.PROMPT).group.value
        'prompt'
    """

    PATCHES = "patches"  # of an image: all but the leading class and register tokens
    TEXT = "text"  # of an encoder: all but the first
    PROMPT = "prompt"  # of a decoder: all but the first few and the most recent
    IMAGES = "images"  # of a vision-language model: exactly the image tokens


@dataclass(frozen=True)
class Droppable:
    """The droppable tokens of one batch of N tokens a row.

    Attributes:
        count: of them in every row, padding included; a number that no value of a tensor decides.
        protected: (B or 1, N) bool, tokens that always stay.
        valid: (B, N) bool, tokens that are no padding; None where all are.
    """

    count: Any
    protected: Tensor
    valid: Tensor | None


@dataclass(frozen=True)
class TokenLayout:
    """Where a model has which tokens.

    Attributes:
        patch: (height, width) of an image patch; of PATCHES only.
        image_token: its id in `input_ids`; of IMAGES only.
        tokens_per_image: a fixed number, where the model has one; of IMAGES only.

    Example:
        >>> TokenLayout(Group.PROMPT, sinks=4, recent=32).image_token
        -1
    """

    group: Group
    sinks: int = SINKS
    recent: int = RECENT
    patch: tuple[int, int] = (1, 1)
    image_token: int = -1
    tokens_per_image: int | None = None

    def read(self, inputs: Mapping[str, Any], hidden: Tensor) -> Droppable:
        """Who may go in a batch.

        Args:
            inputs: what the model was given, by name: a mask (B, N) of ones and zeros, pixels, ids.
            hidden: (B, N, H) states that enter the first block.

        Raises:
            BadData: a mask that is not (B, N), a row that is all padding or holds several sequences, or rows with
                unlike numbers of images.
        """
        tokens = hidden.shape[1]
        if self.group in (Group.PROMPT, Group.IMAGES):
            _refuse_packed(inputs.get("position_ids"), inputs.get("attention_mask"))
        valid = self._find_valid(inputs.get("attention_mask"), hidden)
        if self.group is Group.IMAGES:
            return self._find_images(inputs, hidden, valid)
        if self.group is Group.PATCHES:
            height, width = inputs["pixel_values"].shape[-2:]
            count = (height // self.patch[0]) * (width // self.patch[1])
            return Droppable(count, _find_positions(hidden) < tokens - count, None)
        first, last = (self.sinks, self.recent) if self.group is Group.PROMPT else (1, 0)
        return Droppable(tokens - first - last, _mark_ends(hidden, valid, first, last), valid)

    def _find_valid(self, mask: Any, hidden: Tensor) -> Tensor | None:
        if mask is None or self.group is Group.PATCHES:
            return None
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != hidden.shape[1]:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise BadData(f"attention_mask {shape}: a model that drops tokens reads one of (batch, tokens); pass that")
        valid = mask.to(hidden.device).bool()
        if not torch.compiler.is_compiling():
            empty = (~valid.any(1)).nonzero().flatten().tolist()
            if empty:
                raise BadData(f"row {empty[0]} of attention_mask is all padding; leave such rows out of the batch")
        return valid

    def _find_images(self, inputs: Mapping[str, Any], hidden: Tensor, valid: Tensor | None) -> Droppable:
        ids, pixels = inputs.get("input_ids"), inputs.get("pixel_values")
        if ids is None:
            raise BadData("inputs_embeds do not say which tokens are of an image; pass input_ids to drop image tokens")
        image = ids == self.image_token
        if torch.compiler.is_compiling():  # images that `generate` encoded before come without pixels: ids count
            if pixels is None:
                return Droppable(0, ~image, valid)
            if self.tokens_per_image is None:
                raise BadData("images of any size have no fixed number of tokens; trace with a model that fixes it")
            return Droppable(pixels.shape[0] // ids.shape[0] * self.tokens_per_image, ~image, valid)
        counts = image.sum(1).tolist()
        if len(set(counts)) > 1:
            raise BadData(
                f"rows with {min(counts)} and {max(counts)} image tokens in one batch: every row needs as many; "
                "batch prompts with as many images of one size"
            )
        return Droppable(counts[0], ~image, valid)


def read_token_layout(model: Any, anatomy: Anatomy) -> TokenLayout:
    """Where a model has its droppable tokens.

    Raises:
        UnreadableModel: a vision model without patch_size, or a vision-language one without image_token_id.
    """
    config = model.config
    if is_vision_language(model):
        token = getattr(config, "image_token_id", None)
        if not isinstance(token, int):
            raise UnreadableModel(
                f"{type(model).__name__}: looked for image_token_id in its config and found {token!r}"
            )
        return TokenLayout(Group.IMAGES, image_token=token, tokens_per_image=count_prompt_image_tokens(model))
    if model.main_input_name == "pixel_values":
        patch = getattr(config, "patch_size", None)
        if patch is None:
            raise UnreadableModel(f"{type(model).__name__}: looked for patch_size in its config and found none")
        return TokenLayout(Group.PATCHES, patch=(patch, patch) if isinstance(patch, int) else tuple(patch))
    return TokenLayout(Group.PROMPT if anatomy.is_decoder else Group.TEXT)


def _refuse_packed(numbers: Any, mask: Any) -> None:
    """Without a mask the library keeps tokens apart whose numbers do not rise by one; a shorter sequence has gaps.

    How many tokens of each sequence of a row may go, and who asks in it, would depend on values.
    """
    if mask is not None or not isinstance(numbers, Tensor) or torch.compiler.is_compiling():
        return
    rows = numbers[0] if numbers.ndim == 3 and len(numbers) == 4 else numbers  # of text; the others are of an image
    if rows.ndim != 2:
        return
    breaks = (rows.diff(dim=1) != 1).nonzero()
    if len(breaks):
        row, index = breaks[0].tolist()
        before, after = rows[row, index : index + 2].tolist()
        raise BadData(
            f"position_ids of row {row} go from {before} to {after} at token {index + 1}: sequences packed into one "
            "row would see each other where tokens are dropped; give each a row of its own, padded, with attention_mask"
        )


def _find_positions(hidden: Tensor) -> Tensor:
    return torch.arange(hidden.shape[1], device=hidden.device)[None]


def _mark_ends(hidden: Tensor, valid: Tensor | None, first: int, last: int) -> Tensor:
    """(B or 1, N) the first and the last so many tokens of each row, padding on either side left out."""
    if valid is None:
        index, count = _find_positions(hidden), hidden.shape[1]
        return (index < first) | (index >= count - last)
    order = valid.long().cumsum(1) - 1
    return valid & ((order < first) | (order >= valid.sum(1, keepdim=True) - last))
