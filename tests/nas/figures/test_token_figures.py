"""What is which grids are grids, and pictures of every form of data."""

from pathlib import Path

import pytest
import torch

from nas.figures.tokens import Remains, compute_patch_grid, draw_survivors, save_tokens, shade
from pruning.analysis.token_redundancy import TokenCurves, TokenRedundancy


@pytest.mark.parametrize("brightness", [0.0, 1.0])
def test_exactly_the_dropped_patches_are_shaded(brightness: float) -> None:
    """On black images, too, where a darker patch would look as it did."""
    kept = torch.tensor([True, False, False, False, True, True])  # 2 rows of 3 patches of 2 x 2 pixels
    image = torch.full((4, 6, 3), brightness)
    changed = (shade(image, kept) != image).all(-1)
    assert changed[:2, 2:].all()
    assert changed[2:, :2].all()
    assert int(changed.sum()) == 12
    assert shade(image, kept)[0, 5].max() < 0.6


@pytest.mark.parametrize(
    ("patches", "size", "grid"),
    [
        (64, (32, 32), (8, 8)),
        (6, (4, 6), (2, 3)),
        (6, (6, 4), (3, 2)),
        (196, (224, 224), (14, 14)),
        (1, (5, 5), (1, 1)),
    ],
)
def test_grids_follow_the_image(patches: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert compute_patch_grid(patches, *size) == grid


@pytest.mark.parametrize("patches", [7, 63, 65])
def test_what_is_no_grid_is_refused(patches: int) -> None:
    with pytest.raises(ValueError, match=f"{patches} patches form no grid"):
        compute_patch_grid(patches, 32, 32)


def test_pictures_are_drawn(tmp_path: Path) -> None:
    one = TokenCurves("image tokens", 9.0, (0.1, 0.5, 0.9), (0.2, 0.6, 0.95), (0.9, 0.4, 0.1), (8.0, 5.0, 2.5))
    two = TokenCurves("text tokens", 4.0, (0.1, 0.1, 0.2), (0.2, 0.3, 0.4), (0.1, 0.6, 0.9), (3.0, 3.0, 2.0))
    save_tokens(TokenRedundancy("llava", "last", 6, (one, two)), tmp_path, "model")
    stages = [Remains(f"stage {i}", torch.rand(2, 9) > i / 3) for i in range(3)]
    for channels in (1, 3):
        path = tmp_path / f"survivors{channels}.png"
        draw_survivors(torch.randn(2, channels, 12, 12), stages, path, "model", ("how many?", ""))
    for name in ("tokens", "survivors1", "survivors3"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
