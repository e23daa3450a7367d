"""A winner's folder is an MLflow model: in a process of its own it predicts what the pruned model computes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from families import build
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from nas.mlflow_model import Predictor, write_mlmodel
from nas.parent.reference_models import find_reference
from nas.quality.embedding import embed
from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import BadData

DROPPED = frozenset({Unit(1, Kind.MLP), Unit(2, Kind.ATTENTION)})
IDS = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
LOAD = """
import sys, json
import numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
"""


def pruned(family: str, folder: Path, dropped: frozenset[Unit] = DROPPED, headless: bool = False) -> torch.nn.Module:
    """A model of the family without some parts, saved as a winner is."""
    parent = AutoModel.from_config(build(family).config).eval() if headless else build(family)
    anatomy = read_anatomy(parent)
    model = prune(parent, drop_from_parent(anatomy.depth, dropped), anatomy=anatomy)
    save(model, folder)
    write_mlmodel(folder)
    return model


@torch.inference_mode()
def expected(model: torch.nn.Module, **inputs: torch.Tensor) -> np.ndarray:
    return model(**inputs).logits.numpy()


def test_a_process_that_knows_nothing_of_it_predicts_what_the_model_computes(tmp_path: Path) -> None:
    """A decoder without parts of blocks, from token ids."""
    model = pruned("llama", tmp_path / "winner")
    np.save(tmp_path / "ids.npy", IDS)
    positions = [str(tmp_path / name) for name in ("winner", "ids.npy", "logits.npy")]
    subprocess.run([sys.executable, "-c", LOAD, *positions], check=True, cwd=tmp_path, timeout=300)
    assert np.allclose(np.load(tmp_path / "logits.npy"), expected(model, input_ids=torch.tensor(IDS)), atol=1e-5)


def test_an_encoder_gives_one_embedding_per_item(tmp_path: Path) -> None:
    model = pruned("bert", tmp_path, headless=True)
    given = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    with torch.inference_mode():
        truth = embed(model, given).numpy()
    found = Predictor(tmp_path).predict({name: tensor.numpy() for name, tensor in given.items()})
    assert found.shape == (2, model.config.hidden_size)
    assert np.allclose(found, truth, atol=1e-5)


def test_an_image_model_takes_images_and_pixels(tmp_path: Path) -> None:
    model = pruned("vit", tmp_path, frozenset({Unit(1, Kind.BLOCK)}))
    size = model.config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    values = (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5  # as of a folder that says nothing
    predictor = Predictor(tmp_path)
    truth = predictor.predict(values)
    with torch.inference_mode():
        output = model(pixel_values=torch.from_numpy(values))
        own = output.logits if "logits" in output else embed(model, {"pixel_values": torch.from_numpy(values)})
    assert np.allclose(truth, own.numpy(), atol=1e-5)
    assert np.allclose(predictor.predict(pixels), truth, atol=1e-5)


def test_texts_are_read_by_the_tokenizer_of_the_folder(tmp_path: Path) -> None:
    """Each text as it is alone, whatever is beside it; in a list, a series and a table."""
    reference = find_reference("python-lm")
    assert reference is not None
    parent = AutoModelForCausalLM.from_pretrained(reference.folder, dtype=torch.float32).eval()
    anatomy = read_anatomy(parent)
    model = prune(parent, drop_from_parent(anatomy.depth, DROPPED), anatomy=anatomy)
    save(model, tmp_path, companions=reference.folder)
    texts = ["def f(x):", "import os\nimport sys\n"]
    tokenizer, predictor = AutoTokenizer.from_pretrained(reference.folder), Predictor(tmp_path)
    found = predictor.predict(texts)
    for row, text in zip(found, texts, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        assert np.allclose(row[: ids.shape[1]], expected(model, input_ids=ids)[0], atol=1e-4)
    for given in (pd.Series(texts), pd.DataFrame({"text": texts}), pd.DataFrame({"anything": texts})):
        assert np.array_equal(predictor.predict(given), found)
    assert np.array_equal(predictor.predict(texts[0])[0], predictor.predict(texts[:1])[0])


@pytest.mark.parametrize("given", [[[1, 2], [3]], np.zeros((2, 3)), np.zeros((2, 3, 4), dtype=int), []], ids=str)
def test_what_the_model_does_not_take_is_said(given: object, tmp_path: Path) -> None:
    pruned("llama", tmp_path)
    with pytest.raises(BadData, match="texts"):
        Predictor(tmp_path).predict(given)


def test_the_model_says_which_package_reads_it(tmp_path: Path) -> None:
    write_mlmodel(tmp_path)
    flavor = yaml.safe_load((tmp_path / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["loader_module"] == "nas.mlflow_model"
    assert (tmp_path / "requirements.txt").read_text().startswith("nas==")
