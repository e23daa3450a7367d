"""`nas analyze`: what it writes and prints about parts and tokens, of images and of text."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from families import IMAGE_ID, build, example
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from nas.cli.app import app
from nas.data.dataset import Split
from nas.figures.kept_patches import find_image_survivors, spread
from nas.parent.reference_models import find_reference
from pruning.analysis.token_redundancy import TokenRedundancy
from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import save
from search_spaces import Schedule
from search_spaces.errors import ArchitectureError, UsageError


def run(*arguments: str):
    return CliRunner().invoke(app, ["analyze", *arguments])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Tiny models of images and text, with noise and words to read."""
    home = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    for family in ("vit", "siglip"):
        save(build(family), home / family)
    for label in range(2):
        (home / "images" / f"LABEL_{label}").mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "images" / f"LABEL_{label}" / f"{number}.png")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    save(LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=4096, max_position_embeddings=64)), home / "llama")
    reference = find_reference("python-lm")
    assert reference is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference.folder / name, home / "llama" / name)
    letters = np.array(list("abcdefghij    "))
    (home / "texts.txt").write_text("\n\n".join("".join(rng.choice(letters, 400)) for _ in range(30)))
    return home


def test_of_images_parts_tokens_and_survivors(folders: Path, tmp_path: Path) -> None:
    done = run("--model", str(folders / "vit"), "--data", str(folders / "images"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"redundancy.json", "redundancy.png", "tokens.json", "tokens.png", "survivors.png"}
    assert "patches that enter each block: 9 of an item" in done.stdout
    assert "class token" in done.stdout
    assert all(f"{name}.png" in done.stdout for name in ("redundancy", "tokens", "survivors"))


def test_as_json_what_there_was_and_the_tokens(folders: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(folders / "images"), "--out", str(tmp_path), "--tokens", "fastv:1=0.3", "--json"]
    done = run("--model", str(folders / "siglip"), *arguments)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {
        "model", "schema_version", "family", "layout", "tokens", "similarity", "between", "parts", "token_redundancy",
    }  # fmt: skip
    assert document["parts"] == [{"attention": ["attention"], "mlp": ["mlp"]}] * len(document["parts"])
    assert document["token_redundancy"] == json.loads((tmp_path / "tokens.json").read_text())
    assert TokenRedundancy.from_json(document["token_redundancy"]).query == "mean of all tokens"
    assert (tmp_path / "survivors.png").exists()


def test_of_text_there_is_no_picture_of_images(folders: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(folders / "llama"), "--data", str(folders / "texts.txt"), "--out", str(tmp_path)]
    done = run(*arguments, "--tokens", "pyramiddrop")
    assert done.exit_code == 0, done.stderr
    assert not (tmp_path / "survivors.png").exists()
    assert "no picture of pyramiddrop" in done.stderr
    group = json.loads((tmp_path / "tokens.json").read_text())["groups"][0]
    assert (group["name"], group["tokens"]) == ("prompt tokens", 64 - 4 - 32)


@pytest.mark.parametrize(
    ("preset", "error", "says"),
    [
        ("fastvit", UsageError, "token preset 'fastvit' is none of"),
        ("visionzip", ArchitectureError, "no vision tower"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_anything_is_measured(
    preset: str, error: type, says: str, folders: Path, tmp_path: Path
) -> None:
    arguments = ["--model", str(folders / "vit"), "--data", str(folders / "images"), "--out", str(tmp_path / "out")]
    done = run(*arguments, "--tokens", preset)
    assert isinstance(done.exception, error)
    assert says in str(done.exception)
    assert "analysing" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_items_are_spread_and_keep_their_images() -> None:
    inputs = {"input_ids": torch.arange(10)[:, None], "pixel_values": torch.arange(20)[:, None]}
    chosen = spread(Split("calibration", inputs), 4).inputs
    assert chosen["input_ids"].flatten().tolist() == [0, 3, 6, 9]
    assert chosen["pixel_values"].flatten().tolist() == [0, 1, 6, 7, 12, 13, 18, 19]


class Words:
    """A tokenizer that writes numbers."""

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return " ".join(str(int(number)) for number in ids)


def test_several_images_of_a_question_have_rows_of_their_own() -> None:
    model = build("llava")
    inputs = example(model, images=2, tokens=3)
    schedule = Schedule.parse("1=0.5,2=0.25")
    found = find_image_survivors(model, read_anatomy(model), Split("calibration", inputs), schedule, Words())
    assert found is not None
    assert [stage.title.splitlines() for stage in found.remains] == [
        ["before", "18 tokens"], ["1, from block 1", "9 of 18 kept"], ["2, from block 2", "4 of 18 kept"],
    ]  # fmt: skip
    assert [stage.kept.reshape(2, 18).sum(1).tolist() for stage in found.remains] == [[18, 18], [9, 9], [4, 4]]
    assert [stage.kept.shape for stage in found.remains] == [(4, 9)] * 3
    words = [" ".join(str(i) for i in row if i != IMAGE_ID) for row in inputs["input_ids"].tolist()]
    assert found.captions == (words[0], "", words[1], "")
