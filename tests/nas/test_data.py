"""Data is read as described, split by project, cleaned of copies, and wrong data is one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import build
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.data.dataset import load_dataset
from nas.data.documents import SPLITS, Document, read_documents
from nas.data.images import read_class_folders
from nas.data.splitting import split_documents
from search_spaces.errors import BadData

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
]


def text(seed: int, words: int = 40) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(WORDS[i] + str(rng.integers(50)) for i in rng.integers(len(WORDS), size=words))


class Words:
    """A tokenizer that counts letters: enough for the packing rules."""

    eos_token_id = 0

    def __call__(self, texts, **options):
        if isinstance(texts, str):
            return {"input_ids": [1 + len(word) for word in texts.split()]}
        ids = [[1 + len(word) for word in text.split()] for text in texts]
        longest = max(map(len, ids))
        padded = [row + [0] * (longest - len(row)) for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=30, max_size=60))
def test_a_project_is_in_one_split_and_no_text_is_twice(members) -> None:
    documents = [Document(text(project * 100 + number), f"project {project}") for project, number in members]
    try:
        splits = split_documents(documents)
    except BadData:
        assert len({document.project for document in documents}) < 4
        return
    for project in {document.project for document in documents}:
        assert sum(any(d.project == project for d in members) for members in splits.values()) <= 1
    texts = [document.text for members in splits.values() for document in members]
    assert len(texts) == len(set(texts))


def test_near_duplicates_go_from_calibration_first() -> None:
    original = text(1, 60)
    copy = original.replace(original.split()[30], "changed")
    documents = [
        Document(copy, split="calibration"), Document(text(2), split="calibration"),
        Document(text(3), split="validation"), Document(original, split="test"),
    ]  # fmt: skip
    splits = split_documents(documents)
    assert [d.text for d in splits["test"]] == [original]
    assert [d.text for d in splits["calibration"]] == [text(2)]


def test_the_split_does_not_depend_on_the_order() -> None:
    documents = [Document(text(n), f"p{n % 7}") for n in range(40)]
    one, other = split_documents(documents), split_documents(documents[::-1])
    assert {n: {d.text for d in m} for n, m in one.items()} == {n: {d.text for d in m} for n, m in other.items()}


def test_text_files_folders_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\nstill first\n\nsecond\n")
    assert [d.text for d in read_documents(tmp_path / "a.txt")] == ["first\nstill first", "second\n"]
    (tmp_path / "b.jsonl").write_text('{"text": "x", "project": "p", "split": "test"}\n\n{"text": "y"}\n')
    assert read_documents(tmp_path / "b.jsonl") == [Document("x", "p", "test"), Document("y")]
    (tmp_path / "folder" / "p1").mkdir(parents=True)
    (tmp_path / "folder" / "p1" / "one.py").write_text("print(1)")
    (tmp_path / "folder" / "two.md").write_text("hello")
    assert read_documents(tmp_path / "folder") == [Document("print(1)", "p1"), Document("hello", None)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json\n", "line 1"),
        ('{"text": "a"}\n{"words": 1}\n', "line 2"),
        ('{"text": "a", "split": "train"}\n', "split 'train'"),
        ("\n", "holds no text"),
    ],
)
def test_wrong_lines_are_named(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(BadData, match=says) as caught:
        read_documents(path)
    assert "\n" not in str(caught.value)


def test_missing_data_and_too_little_data(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        read_documents(tmp_path / "nothing.txt")
    with pytest.raises(BadData, match="at least three"):
        split_documents([Document("one"), Document("two")])


def test_language_windows_are_packed_and_encoder_texts_padded(tmp_path: Path) -> None:
    for number, name in enumerate(SPLITS):
        lines = [json.dumps({"text": text(100 * number + i, 90)}) for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    causal = load_dataset(build("llama"), Words(), tmp_path)
    assert causal.test.inputs["input_ids"].shape == (1, 512)
    assert int((causal.test.inputs["input_ids"] == 0).sum()) == 5  # an end token after each 90 words
    encoder = load_dataset(build("bert"), Words(), tmp_path)
    assert encoder.validation.inputs["attention_mask"].shape == (8, 90)
    assert encoder.validation.digest != encoder.test.digest
    sizes = [len(batch["input_ids"]) for batch in encoder.test.batches(3, items=7)]
    assert sizes == [3, 3, 1]
    with pytest.raises(BadData, match="no tokenizer"):
        load_dataset(build("bert"), None, tmp_path)


def test_class_folders_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(20):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    model = build("vit")
    splits = read_class_folders(tmp_path, model)
    assert sum(len(labels) for _, labels in splits.values()) == 40
    assert splits["test"][0].shape[1:] == (3, 12, 12)
    assert {int(label) for _, labels in splits.values() for label in labels} == {0, 1}
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"broken\.png is no readable image"):
        read_class_folders(tmp_path, model)
