"""Which patches of a few images are left at each stage of a token schedule, ready to be drawn."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.data.dataset import Split
from nas.figures.tokens import Remains, compute_patch_grid
from pruning.anatomy.anatomy import Anatomy
from pruning.reduction.kept_tokens import find_survivors
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.schedule import Schedule

IMAGES = 4  # at most, so that the picture is looked at as a whole


@dataclass(frozen=True)
class ImageSurvivors:
    """Images and what is left of them.

    Attributes:
        pixels: (n, channels, height, width).
        remains: of all stages; the first entry is before any of them.
        captions: of every image, what is asked about it; empty where nothing is.
    """

    pixels: Tensor
    remains: tuple[Remains, ...]
    captions: tuple[str, ...]


def takes_whole_images(split: Split) -> bool:
    """Whether images are given as they are seen, not cut into patches beforehand (Qwen2-VL)."""
    pixels = split.inputs.get("pixel_values")
    return pixels is not None and pixels.ndim == 4


def find_image_survivors(
    model: Any, anatomy: Anatomy, split: Split, schedule: Schedule, tokenizer: Any = None
) -> ImageSurvivors | None:
    """Run the parent with a schedule on some images of a split.

    Args:
        model: the parent, of `anatomy`; one that takes whole images.
        anatomy: what `read_anatomy` found.
        split: where the images come from.
        schedule: which stages, and how they choose.
        tokenizer: turns questions about the images back into words, for the captions.

    Returns:
        None where the tokens of an image form no grid of patches, or no stage acts.

    Raises:
        ArchitectureError: the schedule does not fit the model.
        BadData: as `TokenLayout.read` says.
    """
    inputs = spread(split, IMAGES).inputs
    pixels = inputs["pixel_values"]
    reduced = prune(
        model, Architecture.parent(anatomy.depth).replace_tokens(schedule), anatomy=anatomy, share_weights=True
    )
    stages = find_survivors(reduced, inputs)
    if not stages or stages[0].kept.numel() % len(pixels):
        return None
    # Several images of one item: their tokens stand one after the other.
    kept = [stage.kept.reshape(len(pixels), -1) for stage in stages]
    try:
        compute_patch_grid(kept[0].shape[1], *pixels.shape[-2:])
    except ValueError:
        return None
    whole = Remains(f"before\n{stages[0].kept.shape[1]} tokens", kept[0] | True)
    counts = [int(stage.kept[0].sum()) for stage in stages]  # the same in every row
    remains = [
        Remains(f"{number}, from block {stage.stage.block}\n{count} of {stage.kept.shape[1]} kept", left)
        for number, (stage, count, left) in enumerate(zip(stages, counts, kept, strict=True), 1)
    ]
    return ImageSurvivors(pixels, (whole, *remains), _list_captions(model, inputs, tokenizer))


def spread(split: Split, count: int) -> Split:
    """At most so many items, evenly spaced: neighbours may be about one image."""
    items = torch.linspace(0, len(split) - 1, min(count, len(split))).round().long()
    inputs = {
        name: tensor.reshape(len(split), -1, *tensor.shape[1:])[items].flatten(0, 1)
        for name, tensor in split.inputs.items()
    }
    return Split(split.name, inputs)


def _list_captions(model: Any, inputs: dict[str, Tensor], tokenizer: Any) -> tuple[str, ...]:
    """What is asked about each image; of several images of one question the first has it."""
    if tokenizer is None or "input_ids" not in inputs:
        return ()
    words = [ids[ids != model.config.image_token_id] for ids in inputs["input_ids"]]
    asked = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in words]
    more = len(inputs["pixel_values"]) // len(asked) - 1
    return tuple(text for question in asked for text in (question, *("",) * more))
