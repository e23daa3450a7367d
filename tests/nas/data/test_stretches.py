"""Long texts: cut without a loss, split without neighbours in two splits, thinned evenly."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from byte_tokenizer import byte_tokenizer
from families import build
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import Words

from nas.data.dataset import load_dataset
from nas.data.documents import SPLITS, Document, read_documents
from nas.data.splitting import split_documents
from nas.data.stretches import STRETCH, cut, thin
from search_spaces.errors import BadData


def words(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(count)]


@settings(deadline=None)
@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 50))
def test_a_cut_text_is_the_text(text: str, most: int) -> None:
    stretches = cut(Document(text, "p"), most)
    assert "".join(stretch.text for stretch in stretches) == text
    assert all(len(stretch.text) <= most and stretch.project == "p" for stretch in stretches)
    assert [stretch.ends for stretch in stretches] == [False] * (len(stretches) - 1) + [True]


def test_cuts_are_made_between_lines_and_words() -> None:
    assert [part.text for part in cut(Document("one two\nthree four five"), 12)] == ["one two\n", "three four", " five"]


@pytest.mark.parametrize("shape", ["one line", "lines", "two texts"])
@pytest.mark.parametrize("by_line", [True, False])
def test_parts_of_one_text_do_not_adjoin_in_two_splits(shape: str, by_line: bool) -> None:
    message = words(3000)
    rows = [" ".join(message[at : at + 10]) for at in range(0, 3000, 10)]
    whole = {
        "one line": [" ".join(rows)],
        "lines": ["\n".join(rows)],
        "two texts": ["\n".join(rows[:50]), "\n".join(rows[50:])],
    }
    splits = split_documents([Document(text) for text in whole[shape]], by_line=by_line)
    positions = {
        word: at for at, word in enumerate(message)
    }  # later ones of equal words: words are nearly all different
    spans = {}
    for name, members in splits.items():
        found = sorted(
            positions[word] for document in members for word in document.text.split() if message.count(word) == 1
        )
        spans[name] = found[0], found[-1]
    assert spans["calibration"][1] + 5 < spans["validation"][0]  # words between the splits, in neither
    assert spans["validation"][1] + 5 < spans["test"][0]
    assert spans["calibration"][0] < 20
    assert spans["test"][1] > 2980
    shares = [spans[name][1] - spans[name][0] for name in SPLITS]
    assert [round(share / 3000, 1) for share in shares] == pytest.approx([0.2, 0.3, 0.4], abs=0.11)


def test_lines_of_one_text_are_items_of_an_encoder(tmp_path: Path) -> None:
    message = words(3000)
    rows = [" ".join(message[at : at + 10]) for at in range(0, 3000, 10)]
    (tmp_path / "a.txt").write_text("\n".join([*rows, rows[0], rows[299]]))  # two copies, far from their originals
    splits = split_documents(read_documents(tmp_path / "a.txt"))
    found = [document.text for members in splits.values() for document in members]
    assert set(found) <= set(rows)
    assert len(found) == len(set(found))
    assert len(found) >= 290


def test_a_language_model_reads_on_where_a_text_was_cut(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    model = build("llama")
    model.resize_token_embeddings(len(tokenizer))
    text = " ".join(words(2000))
    (tmp_path / "a.txt").write_text(text)
    dataset = load_dataset(model, tokenizer, tmp_path / "a.txt")
    for name in SPLITS:
        windows = dataset.get_split(name).inputs["input_ids"]
        assert int((windows == tokenizer.eos_token_id).sum()) == 0
        assert all(tokenizer.decode(window) in text for window in windows)  # no seam inside


def test_too_little_says_how_much_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello world\n")
    with pytest.raises(BadData, match=r"has 12 characters in 1 text; at least three texts .* or one of 240 characters"):
        split_documents(read_documents(tmp_path / "a.txt"), by_line=False)
    (tmp_path / "a.txt").write_text(" ".join(words(40)))  # enough to cut, too little for windows of 16 tokens each
    with pytest.raises(BadData, match="needed, so give more text, about 64 tokens in all"):
        load_dataset(build("llama"), Words(), tmp_path / "a.txt")


def test_much_data_is_thinned_evenly_and_little_is_left_as_it_is() -> None:
    documents = [Document(f"{at:06d} " + "x" * (at % 50)) for at in range(40_000)]
    little = documents[:20_000]
    assert thin(little, 10) is little
    kept = thin(documents, 30_000)
    assert 25_000 <= sum(len(document.text) for document in kept) <= 35_000
    numbers = [int(document.text[:6]) for document in kept]
    steps = {after - before for before, after in pairwise(numbers)}
    assert numbers[0] == 0
    assert numbers[-1] == 39_999
    assert max(steps) - min(steps) <= 1
    book = thin([Document("word " * 300_000)], 40_000)
    assert len(book) == 40_000 // STRETCH
    assert sum(document.ends for document in book) == 1


@pytest.mark.parametrize("end", [" ", "\n", "\n\n"])
def test_of_a_long_text_only_what_is_used_is_tokenised(end: str, tmp_path: Path) -> None:
    read = []

    class Counting(Words):
        def __call__(self, texts, **options):
            read.extend([texts] if isinstance(texts, str) else texts)
            return super().__call__(texts, **options)

    message = random.Random(0).choices(words(3_000), k=540_000)
    text = end.join(" ".join(message[at : at + 60]) for at in range(0, len(message), 60))
    (tmp_path / "a.txt").write_text(text)
    model = build("llama")
    model.config.max_position_embeddings = 512
    dataset = load_dataset(model, Counting(), tmp_path / "a.txt")
    assert [len(dataset.get_split(name)) for name in SPLITS] == [16, 24, 32]
    assert sum(map(len, read)) < 0.45 * len(text)  # calibration is a little less than is always read as a whole
    again = load_dataset(model, Words(), tmp_path / "a.txt")
    assert [dataset.get_split(name).digest for name in SPLITS] == [again.get_split(name).digest for name in SPLITS]


def test_copies_in_three_files_are_found(tmp_path: Path) -> None:
    own = {name: [" ".join(words(30, seed)) for seed in range(at * 10, at * 10 + 10)] for at, name in enumerate(SPLITS)}
    own["calibration"].append(own["test"][3])
    for name, texts in own.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    model = build("bert")
    tokenizer = byte_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    dataset = load_dataset(model, tokenizer, tmp_path)
    assert [len(dataset.get_split(name)) for name in SPLITS] == [10, 10, 10]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_items_that_are_alike_to_the_last_token_are_in_one_split(family: str, tmp_path: Path) -> None:
    header = "the same words at the head of every text " * 40  # few shingles, many tokens
    texts = [f"{header} {' '.join(words(200, at))}" for at in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    model = build(family)
    model.resize_token_embeddings(300)
    if family == "bert":
        with pytest.raises(BadData, match="validation split are in another one too"):
            load_dataset(model, byte_tokenizer(), tmp_path / "a.jsonl")
        return
    dataset = load_dataset(model, byte_tokenizer(), tmp_path / "a.jsonl")
    rows = {name: {tuple(row) for row in dataset.get_split(name).inputs["input_ids"].tolist()} for name in SPLITS}
    assert not rows["test"] & rows["validation"]
    assert not (rows["test"] | rows["validation"]) & rows["calibration"]


def test_a_project_stays_in_the_split_that_one_of_its_texts_was_told() -> None:
    documents = [Document(" ".join(words(20, at)), f"p{at % 6}") for at in range(60)]
    documents.append(Document(" ".join(words(20, 99)), "p3", "test"))
    splits = split_documents(documents)
    assert {name for name, members in splits.items() if any(d.project == "p3" for d in members)} == {"test"}


def test_one_project_for_all_is_none() -> None:
    splits = split_documents([Document(" ".join(words(20, at)), "texts") for at in range(60)])
    assert all(splits.values())
