"""Grids of handwritten digits: a 4 x 4 board of scikit-learn's 8 x 8 digits, some cells blank, as a 32 x 32 image.

A grid draws its digits from a palette of a few, so that counts vary. The digits are split before any grid is made:
a grid of one split never shows a digit image of another.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import affine_grid, grid_sample

SIDE, DIGIT = 4, 8  # cells per side, pixels per side of a cell
CELLS, SIZE = SIDE * SIDE, SIDE * DIGIT
BLANK = 10
MAX_COPIES = 6  # of one digit in a grid
FILLED = (6, 14)
PALETTE = (3, 6)
SHARES = {"calibration": 0.05, "validation": 0.05, "test": 0.15}


@dataclass(frozen=True)
class Digits:
    """Images (n, 8, 8) float in 0..1, labels (n,) int64, and each image's place in scikit-learn's set (n,)."""

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Grids:
    """Images (n, 32, 32) float in 0..1; cells (n, 16) int64, 0..9 or BLANK, row by row; digits: (n, 16) the place in
    scikit-learn's set of each cell's image, -1 where it is blank."""

    images: torch.Tensor
    cells: np.ndarray
    digits: np.ndarray


@dataclass(frozen=True)
class Distortion:
    """How far the digits of training grids may be turned (degrees), shifted, stretched (shares), dimmed and noised."""

    turn: float = 12.0
    shift: float = 0.12
    stretch: float = 0.12
    dim: float = 0.3
    noise: float = 0.06


def load_splits() -> dict[str, Digits]:
    """scikit-learn's 1,797 digits in disjoint stratified splits: train, calibration, validation, test."""
    loaded = load_digits()
    rest, splits, left = np.arange(len(loaded.target)), {}, 1.0
    for name, share in SHARES.items():
        labels = loaded.target[rest]
        rest, part = train_test_split(rest, test_size=share / left, stratify=labels, random_state=0)
        splits[name], left = part, left - share
    every = {"train": rest, **splits}
    return {name: Digits(loaded.images[at] / 16, loaded.target[at], at) for name, at in every.items()}


def lay(rng: np.random.Generator) -> np.ndarray:
    """The cells of one grid, (16,) int64: 6 to 14 digits of a palette of 3 to 6, none more than MAX_COPIES times."""
    palette = rng.permutation(10)[: rng.integers(PALETTE[0], PALETTE[1] + 1)]
    filled = rng.integers(FILLED[0], FILLED[1] + 1)
    cells = np.full(CELLS, BLANK)
    cells[rng.permutation(CELLS)[:filled]] = rng.permutation(np.repeat(palette, MAX_COPIES))[:filled]
    return cells


def make(digits: Digits, count: int, rng: np.random.Generator, distortion: Distortion | None = None) -> Grids:
    """`count` grids of these digits; with a distortion, each digit and the whole image are changed a little."""
    cells = np.stack([lay(rng) for _ in range(count)])
    shown = np.full(cells.shape, -1)
    for digit in range(10):
        cell = cells == digit
        shown[cell] = rng.choice(np.flatnonzero(digits.labels == digit), cell.sum())
    images = torch.zeros(count, CELLS, DIGIT, DIGIT)
    drawn = torch.from_numpy(digits.images[shown[shown >= 0]]).float()
    images[torch.from_numpy(shown >= 0)] = distort(drawn, distortion, rng) if distortion else drawn
    board = images.view(count, SIDE, SIDE, DIGIT, DIGIT).transpose(2, 3).reshape(count, SIZE, SIZE)
    if distortion:
        noise = torch.from_numpy(rng.standard_normal(board.shape, dtype=np.float32))
        board = (board + distortion.noise * float(rng.random()) * noise).clamp(0, 1)
    return Grids(board, cells, np.where(shown >= 0, digits.positions[shown], -1))


def distort(images: torch.Tensor, maximum: Distortion, rng: np.random.Generator) -> torch.Tensor:
    """Turn, shift, stretch and dim each of (n, 8, 8); the outside is black."""

    def draw_uniform(bound: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(-bound, bound, len(images))).float()

    angle, scale = draw_uniform(math.radians(maximum.turn)), 1 + draw_uniform(maximum.stretch)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack(
        [cosine, -sine, draw_uniform(2 * maximum.shift), sine, cosine, draw_uniform(2 * maximum.shift)], dim=1
    )
    field = affine_grid(rows.view(-1, 2, 3), [len(images), 1, DIGIT, DIGIT], align_corners=False)
    turned = grid_sample(images[:, None], field, align_corners=False)[:, 0]
    return (turned * (1 - maximum.dim / 2 + draw_uniform(maximum.dim / 2 + 0.1))[:, None, None]).clamp(0, 1)


def convert_to_input(images: torch.Tensor) -> torch.Tensor:
    """(n, 32, 32) in 0..1 to (n, 3, 32, 32) with mean and deviation 0.5, as the processor does."""
    return ((images - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1).contiguous()
