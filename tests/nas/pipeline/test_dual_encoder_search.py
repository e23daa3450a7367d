"""A search of each tower of a dual encoder by a data sheet, from the folder of the whole model to the result."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from families import filled
from PIL import Image
from typer.testing import CliRunner

from nas.cli.app import app
from nas.parent.reference_models import find_reference
from pruning.checkpoint import load

DEPTH, WIDTH, PIXELS = 4, 32, 12


def build_clip() -> Any:
    sizes = {
        "projection_dim": 16,
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    text = {**sizes, "vocab_size": 4096, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
    tower = {**sizes, "image_size": PIXELS, "patch_size": 4}
    return filled(lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=tower, projection_dim=16)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with a tokenizer, texts and images of noise."""
    home = tmp_path_factory.mktemp("dual")
    build_clip().save_pretrained(home / "clip")
    reference = find_reference("python-lm")
    assert reference is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference.folder / name, home / "clip" / name)
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghij    "))
    (home / "texts.txt").write_text("\n\n".join("".join(rng.choice(letters, 60)) for _ in range(60)))
    for label in range(2):
        (home / "images" / f"LABEL_{label}").mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "images" / f"LABEL_{label}" / f"{number}.png")
    return home


@pytest.mark.slow
@pytest.mark.parametrize(("part", "data", "kind"), [("text", "texts.txt", "Text"), ("vision", "images", "Vision")])
def test_a_tower_is_searched_by_a_data_sheet(home: Path, tmp_path: Path, part: str, data: str, kind: str) -> None:
    arguments = ["--model", str(home / "clip"), "--part", part, "--data", str(home / data), "--target", "jetson-orin"]
    done = CliRunner().invoke(
        app, ["search", *arguments, "--budget", "0.7x", "--trials", "4", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    winner = result["winner"]
    assert winner["predicted_ms"] <= result["budget_ms"]
    assert sum(winner["parts"].values()) < sum(result["model"]["parts"].values()) == 2 * DEPTH
    tower = load(tmp_path / "out" / "winner")
    assert type(tower).__name__.endswith(f"CLIP{kind}ModelWithProjection")
    whole = build_clip()
    assert sum(p.numel() for p in tower.parameters()) < sum(
        p.numel() for p in getattr(whole, f"{part}_model").parameters()
    )
    assert (tmp_path / "out" / "winner" / "model.onnx").exists()
    if part == "text":
        return
    pixels = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    assert tower(pixel_values=pixels).image_embeds.shape == (2, 16)
