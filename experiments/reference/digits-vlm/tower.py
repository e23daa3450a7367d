"""Phase 1: the CLIP tower learns to read a grid, before any language.

Every patch token predicts the digit, the row and the column of its cell; the class token predicts how often each digit
is in the grid, so that its attention means something. The heads that predict are thrown away.
"""

import numpy as np
import torch
from grids import BLANK, CELLS, MAX_COPIES, SIDE, SIZE, Digits, Distortion, Grids, convert_to_input, make
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionConfig, CLIPVisionModel

PATCH = 2
WIDE = SIZE // PATCH  # patches per side of the image
WITHIN = WIDE // SIDE  # patches per side of a cell


def build_tower_config(hidden: int, layers: int, intermediate: int) -> CLIPVisionConfig:
    """Patches of 2 x 2: 256 tokens and the class token."""
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=hidden,
    )


def patch_cells() -> torch.Tensor:
    """The cell, 0..15, of each of the 256 patches, row by row."""
    at = torch.arange(WIDE) // WITHIN
    return (at[:, None] * SIDE + at).flatten()


def prime(tower: CLIPVisionModel) -> None:
    """Let each patch begin by looking at its own cell: the position embeddings name the cell and the place within it,
    the first two layers' heads look along one column, then one row, of it. Saves most of the steps."""
    at = torch.arange(WIDE)
    rows, columns = (side.flatten() for side in torch.meshgrid(at, at, indexing="ij"))
    codes = [rows // WITHIN, columns // WITHIN, rows % WITHIN, columns % WITHIN]
    named = torch.cat([nn.functional.one_hot(code, 4).float() for code in codes], dim=1)
    model = getattr(tower, "vision_model", tower)
    with torch.no_grad():
        model.embeddings.position_embedding.weight[1:, :16] += named
        for layer, position in zip(model.encoder.layers[:2], (12, 8), strict=True):
            attention = layer.self_attn
            size = attention.head_dim
            for head in range(attention.num_heads):
                at = head * size
                for code in range(8):
                    attention.q_proj.weight[at + code, code] += 0.8
                    attention.k_proj.weight[at + code, code] += 0.8
                attention.q_proj.bias[at + 8] += 1.5
                attention.k_proj.weight[at + 8, position + head] += 0.8


class Reader(nn.Module):
    """The tower with the heads of phase 1."""

    def __init__(self, tower: CLIPVisionModel) -> None:
        super().__init__()
        hidden = tower.config.hidden_size
        self.tower = tower
        self.cell = nn.Linear(hidden, BLANK + 1 + 2 * SIDE)
        self.counts = nn.Linear(hidden, 10 * (MAX_COPIES + 1))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 3, 32, 32) to (n, 256, 19) of digit, row, column, and (n, 10, 7) of counts."""
        seen = self.tower(pixel_values=pixels, output_hidden_states=True)
        return self.cell(seen.hidden_states[-1][:, 1:]), self.counts(seen.pooler_output).view(-1, 10, MAX_COPIES + 1)


def count_digits(cells: np.ndarray) -> np.ndarray:
    """(n, 16) cells to (n, 10): how often each digit is in each grid."""
    return (cells[:, :, None] == np.arange(10)).sum(1)


def compute_loss(reader: Reader, grids: Grids, where: torch.Tensor) -> torch.Tensor:
    read, counts = reader(convert_to_input(grids.images))
    digits, rows, columns = read.float().split([BLANK + 1, SIDE, SIDE], dim=-1)
    wanted = torch.from_numpy(grids.cells)[:, where]
    named = cross_entropy(digits.flatten(0, 1), wanted.flatten(), label_smoothing=0.02)
    row = cross_entropy(rows.flatten(0, 1), (where // SIDE).repeat(len(read)))
    column = cross_entropy(columns.flatten(0, 1), (where % SIDE).repeat(len(read)))
    counted = cross_entropy(counts.float().flatten(0, 1), torch.from_numpy(count_digits(grids.cells)).flatten())
    return named + 0.2 * (row + column) + 0.2 * counted


@torch.no_grad()
def measure_cell_accuracy(reader: Reader, digits: Digits, grids: int = 128) -> tuple[float, float, float]:
    """Shares read right on fresh undistorted grids: filled cells (by the vote of their patches), patches of filled
    cells, counts by the class token."""
    reader.eval()
    made, where = make(digits, grids, np.random.default_rng(1)), patch_cells()
    read, counts = reader(convert_to_input(made.images))
    reader.train()
    wanted, filled = torch.from_numpy(made.cells), torch.from_numpy(made.cells != BLANK)
    logits = read[..., : BLANK + 1].float()
    votes = torch.stack([logits[:, where == cell].mean(1) for cell in range(CELLS)], dim=1).argmax(-1)
    patches = logits.argmax(-1) == wanted[:, where]
    counted = counts.argmax(-1) == torch.from_numpy(count_digits(made.cells))
    shares = ((votes == wanted)[filled], patches[filled[:, where]], counted)
    return tuple(float(right.float().mean()) for right in shares)  # type: ignore[return-value]


def draw_batch(digits: Digits, step: int, size: int, seed: int) -> Grids:
    """The training grids of a step; depends on the seed and the step only."""
    return make(digits, size, np.random.default_rng([seed, step]), Distortion())
