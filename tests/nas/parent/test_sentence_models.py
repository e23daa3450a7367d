"""Sentence embedding models from end to end: what is judged, exported and measured is their own embedding."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from sentence_folders import PROMPT, by_hand, sentences, write_folder
from torch import Tensor
from typer.testing import CliRunner

from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.cli.app import app
from nas.export.onnx_export import export_onnx
from nas.export.parity import check_parity
from nas.parent.parent import compute_weights_digest, load_parent_model
from nas.profiling.kit import Kit, make_random_copy
from nas.quality import choose_evaluator
from pruning.checkpoint import load_parent, save
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ExportError

GENERAL = {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}
_DRAWN = torch.Generator().manual_seed(0)
DENSE = {
    "linear.weight": torch.randn(24, 32, generator=_DRAWN),
    "linear.bias": torch.randn(24, generator=_DRAWN),
}
UNITS = (Unit(1, Kind.MLP), Unit(2, Kind.ATTENTION))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in dict.fromkeys(sentences(60, 1))))
    return path


def small(model: object) -> object:
    return prune(model, Architecture.parent(4).drop(*UNITS))


def texts_of(folder: Path, inputs: dict[str, Tensor]) -> list[str]:
    """The words that a split holds, without the prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = [tokenizer.decode(row, skip_special_tokens=True) for row in inputs["input_ids"]]
    assert all(text.startswith("query :") for text in given)
    return [text.removeprefix("query :").strip() for text in given]


def distance(parent: Tensor, own: Tensor) -> Tensor:
    return ((own - parent) ** 2).sum(-1) / (2 * (parent**2).sum(-1))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_loss_is_that_of_the_models_own_embeddings(similarity: str, tmp_path: Path, data: Path) -> None:
    """Vectors of any length are compared as the folder says: by their cosines, or as they are."""
    general = GENERAL | {"similarity_fn_name": similarity}
    folder = write_folder(tmp_path / "m", {"pooling_mode": "cls"}, (), {"max_seq_length": 9}, general)
    parent = load_parent_model(str(folder), data)
    split = parent.dataset.test
    assert split.inputs["input_ids"].shape[1] == 9
    given = [PROMPT + text for text in texts_of(folder, split.inputs)]
    both = [by_hand(m, folder, given, lambda states: states[0], 9) for m in (parent.model, small(parent.model))]
    if similarity == "cosine":
        both = [each / each.norm(dim=-1, keepdim=True) for each in both]
    evaluator = choose_evaluator(parent.model, parent.dataset)
    quality = evaluator.evaluate(small(parent.model), "test")
    assert quality.per_item == pytest.approx(distance(*both).tolist(), rel=1e-3, abs=1e-6)
    above = np.triu_indices(len(given), 1)
    pairs = [(each @ each.T).numpy()[above] for each in both]
    assert quality.others["spearman"] == pytest.approx(spearmanr(*pairs).statistic, abs=1e-2)
    assert evaluator.words == (
        "embeddings (the first token; texts of at most 9 tokens; 'query: ' before every text; as modules.json says)"
    )


def test_a_folder_that_says_nothing_is_judged_by_the_mean_and_that_is_said(tmp_path: Path, data: Path) -> None:
    folder = write_folder(tmp_path / "m", {"pooling_mode": "cls"})
    (folder / "modules.json").unlink()
    parent = load_parent_model(str(folder), data)
    assert "the mean of the tokens, normalised; no modules.json" in choose_evaluator(parent.model, parent.dataset).words


def test_the_exported_file_gives_the_embedding_and_one_that_pools_in_another_way_is_refused(tmp_path: Path) -> None:
    after = [("Dense", {}, DENSE), ("Normalize", {}, {})]
    folder, other = (write_folder(tmp_path / mode, {"pooling_mode": mode}, after) for mode in ("lasttoken", "mean"))
    model = small(load_parent(folder))
    path = export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="differs from the model"):
        check_parity(small(load_parent(other)), path)
    assert check_parity(model, path) < 1e-5
    session = onnxruntime.InferenceSession(str(path))
    assert [output.name for output in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]

    def pool(states: Tensor) -> Tensor:
        dense = torch.tanh(DENSE["linear.weight"].double() @ states[-1] + DENSE["linear.bias"].double())
        return dense / dense.norm()

    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(sentences(), padding=True, return_tensors="np")
    names = [node.name for node in session.get_inputs()]
    vectors = session.run(["sentence_embedding"], {name: batch[name] for name in names})[0]
    assert np.allclose(vectors, by_hand(model, folder, sentences(), pool).numpy(), atol=1e-5)


def test_models_that_embed_in_other_ways_share_no_cache(tmp_path: Path) -> None:
    """The same weights: exports and evaluations of one are not those of the other."""
    folders = [write_folder(tmp_path / mode, {"pooling_mode": mode}) for mode in ("cls", "mean")]
    folders.append(write_folder(tmp_path / "dense", {"pooling_mode": "cls"}, [("Dense", {}, DENSE)]))
    folders.append(write_folder(tmp_path / "other", {"pooling_mode": "cls"}, [("Dense", {}, DENSE)]))
    weights = load_file(folders[-1] / "2_Dense" / "model.safetensors")
    save_file({**weights, "linear.bias": weights["linear.bias"] + 1}, folders[-1] / "2_Dense" / "model.safetensors")
    digests = [compute_weights_digest(load_parent(folder)) for folder in folders]
    assert len(set(digests)) == 4
    assert compute_weights_digest(load_parent(folders[0])) == digests[0]


def test_no_trained_layer_leaves_with_a_kit(tmp_path: Path, data: Path) -> None:
    folder = write_folder(tmp_path / "m", {"pooling_mode": "cls"}, [("Dense", {}, DENSE)])
    parent = load_parent_model(str(folder), data)
    drawn = read_sentence_embedding(make_random_copy(parent.model)).layers[0]
    assert drawn.weight.shape == DENSE["linear.weight"].shape
    kit = Kit(parent, find_target("jetson-orin"), Workload.parse("forward:batch=1,seq=8"), 1.0)
    kit.write(tmp_path / "kit")
    trained = [tensor.numpy().astype(kind).tobytes() for tensor in DENSE.values() for kind in ("<f4", "<f2")]
    for file in (tmp_path / "kit").rglob("*.onnx"):
        content = file.read_bytes()
        assert not any(each in content for each in trained)


def test_evaluating_a_winner_says_how_it_embeds(tmp_path: Path, data: Path) -> None:
    parent = write_folder(tmp_path / "parent", {"pooling_mode": "cls"})
    save(small(load_parent(parent)), tmp_path / "winner", companions=parent)
    arguments = ["evaluate", str(tmp_path / "winner"), "--parent", str(parent), "--data", str(data)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "the first token, normalised" in done.stderr
    assert "modules.json: it is judged" not in done.stderr
    (tmp_path / "winner" / "modules.json").unlink()
    later = CliRunner().invoke(app, arguments)
    assert later.stdout == done.stdout  # by its parent's
    assert "has no modules.json: it is judged as its parent says" in later.stderr


def test_a_model_of_the_hub_embeds_as_its_files_say_and_they_are_carried(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: the hub's cache holds it."""
    cache = tmp_path / "models--some--embedder"
    write_folder(cache / "snapshots" / "0123", {"pooling_mode": "cls"}, [("Dense", {}, DENSE)], general=GENERAL)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    parent = load_parent_model("some/embedder", data)
    assert read_sentence_embedding(parent.model).words.startswith(
        "the first token, through a dense layer to 24 numbers"
    )
    save(small(parent.model), tmp_path / "winner", companions=parent.files)
    for name in ("modules.json", "2_Dense/model.safetensors", "tokenizer.json"):
        assert (tmp_path / "winner" / name).is_file()
