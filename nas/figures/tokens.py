"""Pictures of tokens: how redundant they are by depth, and which patches of an image are left at each stage."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.figures.search import BLUE, GREEN, ORANGE, import_pyplot
from pruning.analysis.token_redundancy import TokenRedundancy

_SHADE = (0.20, 0.25, 0.40)  # of dropped patches: darker than bright images, and told from black ones
_CLEAR = 0.22  # how much of a dropped patch still shows through
_COLOURS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"))
_INCHES = 1.9  # of one image
_LETTERS = 13  # of a title, per inch
_CAPTION = 30  # letters of a line beside an image


@dataclass(frozen=True)
class Remains:
    """What one stage leaves: its title and, for every image, which patches (images, patches), row by row."""

    title: str
    kept: Tensor


def save_tokens(tokens: TokenRedundancy, folder: Path, title: str) -> None:
    """`tokens.json` and `tokens.png` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.json").write_text(json.dumps(tokens.to_json(), indent=1) + "\n")
    draw_tokens(tokens, folder / "tokens.png", title)


def draw_tokens(tokens: TokenRedundancy, path: Path, title: str) -> None:
    """By depth: how alike tokens are, how much of the query's attention they get, and how few of them hold it."""
    plt = import_pyplot()
    figure, (alike, mass, holding) = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    depth = range(tokens.depth)
    for group, (colour, marker) in zip(tokens.groups, _COLOURS, strict=False):
        style = {"color": colour, "linewidth": 2, "markersize": 5}
        alike.plot(depth, group.nearest, marker=marker, **style, label=f"{group.name}: most similar other one")
        alike.plot(depth, group.neighbour, marker=marker, fillstyle="none", linestyle="--", **style,
                   label=f"{group.name}: next one")  # fmt: skip
        mass.plot(depth, [100 * share for share in group.mass], marker=marker, **style, label=group.name)
        holding.plot(depth, group.holding, marker=marker, **style, label=group.name)
        holding.axhline(group.tokens, color=colour, linewidth=1.2, linestyle=":")
        holding.annotate(f"all {group.tokens:.0f}", (0, group.tokens), textcoords="offset points", xytext=(2, 3),
                         color=colour, fontsize=8)  # fmt: skip
    alike.set_title("similarity of tokens", fontsize=10)
    alike.set_ylabel("mean cosine similarity")
    mass.set_title(f"attention they receive\n(query: {tokens.query})", fontsize=10)
    mass.set_ylabel("share of all attention, %")
    mass.set_ylim(0, 103)
    holding.set_title("how many of them hold 90 % of it", fontsize=10)
    holding.set_ylabel("tokens")
    holding.set_ylim(0, 1.1 * max(group.tokens for group in tokens.groups))
    for axes in (alike, mass, holding):
        axes.set_xlabel("depth (states that enter the block)")
        axes.set_xticks(list(depth)[:: 1 + tokens.depth // 17])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes is alike or len(tokens.groups) > 1:
            axes.legend(frameon=False, loc="best", fontsize=8)
    figure.suptitle(f"{title}: how redundant its {tokens.groups[0].name} are", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_survivors(
    pixels: Tensor, remains: Sequence[Remains], path: Path, title: str, captions: Sequence[str] = ()
) -> None:
    """One row per image, one column per stage; patches that are gone are shaded.

    Args:
        pixels: (images, channels, height, width), in any range.
        remains: of every stage, `kept` over a grid of patches that has the image's proportions.
        path: where the picture goes.
        title: above it.
        captions: one per image, to the left of it.

    Raises:
        ValueError: the patches form no such grid.
    """
    plt = import_pyplot()
    images = _make_visible(pixels)
    size = (_INCHES * len(remains), _INCHES * len(images) + 0.75)
    figure, grid = plt.subplots(len(images), len(remains), figsize=size, layout="constrained", squeeze=False)
    for column, stage in enumerate(remains):
        grid[0][column].set_title(stage.title, fontsize=9)
        for row, image in enumerate(images):
            axes = grid[row][column]
            axes.imshow(shade(image, stage.kept[row]).numpy(), interpolation="nearest", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    for row, caption in enumerate(captions):
        grid[row][0].set_ylabel("\n".join(textwrap.wrap(caption, _CAPTION)), fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(title, round(_LETTERS * size[0]))), fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def shade(image: Tensor, kept: Tensor) -> Tensor:
    """An image (height, width, 3) with those patches in dark blue that `kept` (patches,) leaves out.

    Raises:
        ValueError: the patches form no grid with the image's proportions.
    """
    height, width, _ = image.shape
    rows, columns = compute_patch_grid(len(kept), height, width)
    vertical = torch.arange(height) * rows // height
    horizontal = torch.arange(width) * columns // width
    shown = kept.reshape(rows, columns)[vertical][:, horizontal, None]
    return torch.where(shown, image, _CLEAR * image + (1 - _CLEAR) * torch.tensor(_SHADE))


def compute_patch_grid(patches: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of so many patches on an image of that size.

    Raises:
        ValueError: there is no whole number of rows.
    """
    rows = round((patches * height / width) ** 0.5)
    if rows < 1 or patches % rows or abs(patches // rows * height - rows * width) > max(height, width):
        raise ValueError(f"{patches} patches form no grid on an image of {height} x {width}")
    return rows, patches // rows


def _make_visible(pixels: Tensor) -> list[Tensor]:
    """Each image as (height, width, 3) between 0 and 1, whatever it was normalised by."""
    images: list[Any] = []
    for image in pixels.detach().float().cpu():
        low, high = image.min(), image.max()
        scaled = (image - low) / (high - low).clamp(min=1e-6)
        images.append(scaled.expand(3, -1, -1).permute(1, 2, 0))
    return images
