"""Folders of Sentence Transformers: what they say is read, carried along, and computed as every text alone would be.

The truth is plain Transformers on one text at a time, pooled here; where the package is installed it has the last word.
"""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from sentence_folders import PROMPT, bert, by_hand, sentences, write_folder
from torch import Tensor

import nas
from nas.quality.embedding import embed
from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import load_parent, save
from pruning.checkpoint.completeness import UnusedWeights
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ModelError, UnsafeCheckpoint

POOLS = {
    "cls": lambda states: states[0],
    "lasttoken": lambda states: states[-1],
    "max": lambda states: states.amax(0),
    "mean": lambda states: states.mean(0),
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean": lambda states: torch.from_numpy(
        np.average(states.numpy(), axis=0, weights=np.arange(1, len(states) + 1))
    ),
}
OLD = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def embedded(model: Any, folder: Path, texts: list[str], side: str = "right") -> Tensor:
    """By the product: padded together."""
    own = read_sentence_embedding(model)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, padding_side=side)
    given = [own.prepare_text(text) for text in texts]
    batch = tokenizer(given, padding=True, truncation=True, max_length=own.max_length or 64, return_tensors="pt")
    with torch.no_grad():
        return embed(model, {name: batch[name] for name in ("input_ids", "attention_mask")}, own).double()


@pytest.mark.parametrize("mode", POOLS)
@pytest.mark.parametrize("form", ["new", "old"])
def test_every_pooling_is_that_of_each_text_alone(mode: str, form: str, tmp_path: Path) -> None:
    flags = {flag: name == mode for name, flag in OLD.items()}
    folder = write_folder(tmp_path / "m", {"pooling_mode": mode} if form == "new" else flags, layers=())
    expected = by_hand(bert(), folder, sentences(), POOLS[mode])
    assert torch.allclose(embedded(load_parent(folder), folder, sentences()), expected, atol=1e-5)


def test_several_poolings_are_joined_in_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {OLD["mean"]: True, OLD["cls"]: True}, layers=())
    expected = by_hand(bert(), folder, sentences(), lambda states: torch.cat([states[0], states.mean(0)]))
    assert torch.allclose(embedded(load_parent(folder), folder, sentences()), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "mean", "weightedmean"])
def test_padding_on_the_left_changes_nothing(mode: str) -> None:
    """States are those of a model without positions: only what is pooled may depend on the side."""
    from pruning.checkpoint.sentence_embedding import Pooling, SentenceEmbedding

    embedding = SentenceEmbedding((Pooling(mode),), (), skipped=1)
    states = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    right = torch.cat([states, torch.full((1, 3, 8), 7.0)], 1), torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    left = torch.cat([torch.full((1, 3, 8), 7.0), states], 1), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    assert torch.allclose(embedding(*right), embedding(*left))


def test_layers_after_the_pooling(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(16, 32, generator=generator), torch.randn(16, generator=generator)
    scale, shift = torch.rand(16, generator=generator), torch.rand(16, generator=generator)
    layers = [
        ("Dense", {"activation_function": "torch.nn.modules.activation.Tanh"},
         {"linear.weight": weight, "linear.bias": bias}),
        ("LayerNorm", {"dimension": 16}, {"norm.weight": scale, "norm.bias": shift}),
        ("Normalize", {}, {}),
    ]  # fmt: skip
    folder = write_folder(tmp_path / "m", {"pooling_mode": "cls"}, layers)

    def pool(states: Tensor) -> Tensor:
        dense = np.tanh(weight.double().numpy() @ states[0].numpy() + bias.double().numpy())
        centred = dense - dense.mean()
        normed = centred / np.sqrt((centred**2).mean() + 1e-5) * scale.double().numpy() + shift.double().numpy()
        return torch.from_numpy(normed / np.sqrt((normed**2).sum()))

    expected = by_hand(bert(), folder, sentences(), pool)
    assert torch.allclose(embedded(load_parent(folder), folder, sentences()), expected, atol=1e-5)


def test_prompt_length_and_case(tmp_path: Path) -> None:
    general = {"prompts": {"query": PROMPT, "document": ""}, "default_prompt_name": "query"}
    texts = {"max_seq_length": 9, "do_lower_case": True}
    folder = write_folder(tmp_path / "m", {"pooling_mode": "mean"}, (), texts, general)
    model = load_parent(folder)
    expected = by_hand(bert(), folder, [PROMPT + text for text in sentences()], POOLS["mean"], length=9)
    assert torch.allclose(embedded(model, folder, [text.upper() for text in sentences()]), expected, atol=1e-5)


def test_a_prompt_that_is_not_pooled(tmp_path: Path) -> None:
    """[CLS], query and the colon are left out; [SEP] is not."""
    general = {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}
    folder = write_folder(tmp_path / "m", {"pooling_mode": "mean", "include_prompt": False}, (), None, general)
    expected = by_hand(bert(), folder, [PROMPT + text for text in sentences()], lambda states: states[3:].mean(0))
    assert torch.allclose(embedded(load_parent(folder), folder, sentences()), expected, atol=1e-5)


def test_prompts_of_which_none_is_the_default_are_not_put_before_texts(tmp_path: Path) -> None:
    general = {"prompts": {"query": PROMPT}, "default_prompt_name": None}
    assert read_sentence_embedding(load_parent(write_folder(tmp_path / "m", {}, general=general))).prompt == ""


def test_a_checkpoint_of_another_head_is_the_trunk_that_the_folder_embeds_with(tmp_path: Path) -> None:
    """As of all-mpnet-base-v2; its pooler, which no file has and nobody asks, is not random: digests stay the same."""
    masked = bert(hf.BertForMaskedLM)
    folder = write_folder(tmp_path / "m", {"pooling_mode": "cls"}, (), model=masked)
    with pytest.warns(UnusedWeights, match=r"cls\.predictions"):  # the head is left out, and that is said
        one, other = load_parent(folder), load_parent(folder)
    assert type(one) is hf.BertModel
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    expected = by_hand(masked.bert, folder, sentences(), POOLS["cls"])
    assert torch.allclose(embedded(one, folder, sentences()), expected, atol=1e-5)


def test_a_cross_encoder_keeps_its_head(tmp_path: Path) -> None:
    model = bert(hf.BertForSequenceClassification, num_labels=1)
    folder = write_folder(tmp_path / "m", {}, (), general={"model_type": "CrossEncoder"}, model=model)
    loaded = load_parent(folder)
    assert type(loaded) is hf.BertForSequenceClassification
    assert read_sentence_embedding(loaded) is None


def test_a_folder_without_such_files_says_nothing(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    assert read_sentence_embedding(load_parent(tmp_path)) is None


def dropped(model: Any, *units: Unit) -> Any:
    return prune(model, Architecture.parent(4).drop(*units), anatomy=read_anatomy(model))


WHOLE, PARTS = (Unit(1, Kind.BLOCK),), (Unit(1, Kind.MLP), Unit(2, Kind.ATTENTION))


@pytest.mark.parametrize("units", [WHOLE, PARTS], ids=["block", "parts"])
@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_a_winners_folder_embeds_as_its_parent_does(units: tuple[Unit, ...], mode: str, tmp_path: Path) -> None:
    general = {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}
    texts = {"max_seq_length": 9}
    parent = write_folder(tmp_path / "parent", {"pooling_mode": mode}, texts=texts, general=general)
    small = dropped(load_parent(parent), *units)
    save(small, tmp_path / "winner", companions=parent)
    shutil.rmtree(parent)
    again = nas.load(tmp_path / "winner")

    def pool(states: Tensor) -> Tensor:
        return POOLS[mode](states) / POOLS[mode](states).norm()

    expected = by_hand(small, tmp_path / "winner", [PROMPT + text for text in sentences()], pool, length=9)
    assert torch.allclose(embedded(again, tmp_path / "winner", sentences()), expected, atol=1e-5)


def test_what_belongs_to_the_folder_is_carried_and_what_is_pickled_is_not(tmp_path: Path) -> None:
    weights = {"linear.weight": torch.eye(32), "linear.bias": torch.zeros(32)}
    parent = write_folder(tmp_path / "parent", {"pooling_mode": "cls"}, [("Dense", {}, weights)])
    (parent / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    (parent / "onnx").mkdir()
    (parent / "onnx" / "model.onnx").write_bytes(b"another model")
    save(dropped(load_parent(parent), *WHOLE), tmp_path / "winner", companions=parent)
    carried = {str(file.relative_to(tmp_path / "winner")) for file in (tmp_path / "winner").rglob("*.*")}
    wanted = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"}
    assert wanted | {"2_Dense/config.json", "2_Dense/model.safetensors"} <= carried
    assert not any("onnx" in name or name.endswith(".bin") for name in carried)


def test_pruned_copies_and_pickled_ones_carry_it(tmp_path: Path) -> None:
    import pickle

    model = load_parent(write_folder(tmp_path / "m", {"pooling_mode": "cls"}))
    small = dropped(model, *PARTS)
    assert (
        read_sentence_embedding(small)
        is read_sentence_embedding(copy.deepcopy(small))
        is read_sentence_embedding(model)
    )
    assert read_sentence_embedding(pickle.loads(pickle.dumps(model))).digest == read_sentence_embedding(model).digest


REFUSED = {
    "splade": ({"type": "sentence_transformers.sparse_encoder.modules.SpladePooling", "path": "1_Pooling"}, "Splade"),
    "own code": ({"type": "custom_st.Pooling", "path": "1_Pooling"}, "custom_st.Pooling"),
    "elsewhere": ({"type": "sentence_transformers.models.Pooling", "path": "../other"}, "outside of the folder"),
    "absolute": ({"type": "sentence_transformers.models.Pooling", "path": "/etc"}, "outside of the folder"),
    "no path": ({"type": "sentence_transformers.models.Pooling"}, "no list of types and paths"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_steps_that_are_not_known_are_refused(name: str, tmp_path: Path) -> None:
    entry, word = REFUSED[name]
    folder = write_folder(tmp_path / "m", {})
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0], entry]))
    with pytest.raises(ModelError, match=re.escape(word)) as refused:
        load_parent(folder)
    assert "\n" not in str(refused.value)


def test_other_things_that_are_refused(tmp_path: Path) -> None:
    strange = [("Dense", {"activation_function": "os.system"}, {"linear.weight": torch.eye(32)})]
    of_tokens = [("Dense", {"module_input_name": "token_embeddings"}, {"linear.weight": torch.eye(32)})]
    cases = {
        "median; known are cls": write_folder(tmp_path / "a", {"pooling_mode": "median"}),
        "SparseEncoder": write_folder(tmp_path / "b", {}, general={"model_type": "SparseEncoder"}),
        "os.system": write_folder(tmp_path / "c", {}, strange),
        "works on token_embeddings": write_folder(tmp_path / "d", {}, of_tokens),
    }
    for word, folder in cases.items():
        with pytest.raises(ModelError, match=word):
            load_parent(folder)
    folder = write_folder(tmp_path / "e", {}, [("Dense", {}, {})])
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UnsafeCheckpoint, match="pickled"):
        load_parent(folder)
    (folder / "modules.json").write_text("{")
    with pytest.raises(ModelError, match=r"modules\.json cannot be read as JSON"):
        load_parent(folder)
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ModelError, match=r"modules\.json names no steps"):
        load_parent(folder)


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "config_sentence_transformers.json"])
def test_settings_that_are_no_object_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", {})
    (folder / name).write_text("[1]")
    with pytest.raises(ModelError, match=f"{re.escape(name)} is no JSON object"):
        load_parent(folder)


LINEAR = {"linear.weight": torch.eye(32), "linear.bias": torch.ones(32)}
PACKAGE_CASES = {
    "cls": ({"pooling_mode": "cls"}, (("Normalize", {}, {}),), WHOLE),
    "last, not normalised": ({"pooling_mode_lasttoken": True}, (), WHOLE),
    "dense": (
        {"pooling_mode": "mean"},
        (("Dense", {"in_features": 32, "out_features": 32}, LINEAR),),
        PARTS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKAGE_CASES)
def test_the_package_itself_embeds_so(name: str, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    pooling, layers, units = PACKAGE_CASES[name]
    general = {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}
    pooling = {"embedding_dimension": 32, **pooling}
    parent = write_folder(tmp_path / "parent", pooling, layers, {"max_seq_length": 9}, general)
    model = load_parent(parent)
    save(dropped(model, *units), tmp_path / "winner", companions=parent)
    whole = package.SentenceTransformer(str(parent), device="cpu")
    assert torch.allclose(
        torch.tensor(whole.encode(sentences())).double(), embedded(model, parent, sentences()), atol=1e-5
    )
    if units == WHOLE:
        theirs = package.SentenceTransformer(str(tmp_path / "winner"), device="cpu")
    else:  # the way the model card names
        theirs = whole
        theirs[0].model = nas.load(tmp_path / "winner")
    ours = embedded(nas.load(tmp_path / "winner"), tmp_path / "winner", sentences())
    assert torch.allclose(torch.tensor(theirs.encode(sentences())).double(), ours, atol=1e-5)
