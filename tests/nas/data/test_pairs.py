"""Pairs of source and target: read, dealt out to splits, encoded as the decoder is given them."""

import json

import numpy as np
import pytest
import torch
from byte_tokenizer import byte_tokenizer
from families import build

from nas.data.dataset import load_dataset
from nas.data.pairs import Pair, encode_pairs, read_pairs, split_pairs
from nas.data.prompts import IGNORED
from search_spaces.errors import BadData

PAIRS = [Pair(f"source {number}", f"target {number}") for number in range(40)]


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def model_of(family="t5"):
    """With embeddings of the bytes."""
    model = build(family)
    model.resize_token_embeddings(300)
    model.config.vocab_size = 300
    return model


def test_pairs_are_read_from_a_file_or_its_folder(tmp_path):
    lines = [{"source": "a house", "target": "ein Haus", "more": 1}, {"source": "b", "target": "c", "split": "test"}]
    file = write(tmp_path / "pairs.jsonl", lines)
    expected = [Pair("a house", "ein Haus"), Pair("b", "c", "test")]
    assert read_pairs(file) == read_pairs(tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: each line is an object"),
        ({"source": "a"}, "line 1: each line has the texts source and target"),
        ({"source": "a", "target": " "}, "line 1: each line has the texts source and target"),
        (["a", "b"], "line 1: each line has the texts source and target"),
        ({"source": "a", "target": "b", "split": "train"}, "split 'train' is none of calibration, validation, test"),
        ("", "holds no pair"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_place(tmp_path, line, says):
    with pytest.raises(BadData, match=says):
        read_pairs(write(tmp_path / "pairs.jsonl", [line]))
    with pytest.raises(BadData, match="does not exist"):
        read_pairs(tmp_path / "none.jsonl")


def test_one_source_is_in_one_split_whatever_the_order():
    splits = split_pairs([*PAIRS, Pair("source 1", "another target")])
    members = {name: {pair.source for pair in split} for name, split in splits.items()}
    assert sum(map(len, members.values())) == len(set().union(*members.values())) == 40
    assert [len(members[name]) for name in ("calibration", "validation", "test")] == [10, 14, 16]
    assert all(pair.target != "another target" for split in splits.values() for pair in split)
    turned = split_pairs(PAIRS[::-1])
    assert {name: {pair.source for pair in split} for name, split in turned.items()} == members
    with pytest.raises(BadData, match="nothing for"):
        split_pairs(PAIRS[:2])


def test_the_decoder_is_given_the_target_shifted_by_one():
    model, tokenizer = model_of(), byte_tokenizer()
    inputs, labels = encode_pairs(model, tokenizer, [Pair("abc", "xyz"), Pair("a", "longer")], 16)
    start, end = model.config.decoder_start_token_id, model.config.eos_token_id
    for row, text in enumerate(("xyz", "longer")):
        ids = [*tokenizer(text)["input_ids"], end]
        assert labels[row][labels[row] != IGNORED].tolist() == ids
        real = inputs["decoder_attention_mask"][row].bool()
        assert inputs["decoder_input_ids"][row][real].tolist() == [start, *ids[:-1]]
        assert int(real.sum()) == len(ids)
    assert inputs["attention_mask"].sum(-1).tolist() == [3, 1]


def test_long_texts_are_cut_and_the_end_stays():
    model = model_of()
    inputs, labels = encode_pairs(model, byte_tokenizer(), [Pair("a" * 50, "b" * 50)], 8)
    assert inputs["input_ids"].shape == inputs["decoder_input_ids"].shape == labels.shape == (1, 8)
    assert labels[0, -1] == model.config.eos_token_id


def test_a_dataset_of_pairs_and_one_of_sound(tmp_path):
    file = write(tmp_path / "pairs.jsonl", [{"source": pair.source, "target": pair.target} for pair in PAIRS])
    data = load_dataset(model_of(), byte_tokenizer(), file)
    assert [len(split) for split in (data.calibration, data.validation, data.test)] == [10, 14, 16]
    with pytest.raises(BadData, match="no tokenizer"):
        load_dataset(model_of(), None, file)
    rng = np.random.default_rng(0)
    target = np.array([[5, 6, 7], [8, IGNORED, IGNORED]])
    for name in ("calibration", "validation", "test"):
        np.savez(tmp_path / f"{name}.npz", input_features=rng.normal(size=(2, 8, 24)), target=target)
    whisper = build("whisper")
    sound = load_dataset(whisper, None, tmp_path).test
    assert sound.inputs["input_features"].dtype == torch.float32
    assert sound.inputs["decoder_input_ids"].tolist() == [[1, 5, 6], [1, 0, 0]]
    assert sound.inputs["decoder_attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert sound.labels is not None
    assert sound.labels.tolist() == target.tolist()
    np.savez(tmp_path / "test.npz", input_features=rng.normal(size=(2, 8, 20)), target=target)
    with pytest.raises(BadData, match=r"\(n, 8, 24\) features"):
        load_dataset(whisper, None, tmp_path)
