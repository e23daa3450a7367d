"""Data is read as described, split by project, cleaned of copies, and wrong data is one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import DECODERS, build
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.data.dataset import MAX_TEXTS, load_dataset
from nas.data.documents import SPLITS, Document, read_documents
from nas.data.images import normalise, read_class_folders
from nas.data.splitting import remove_near_duplicates, split_documents
from search_spaces.errors import BadData, ModelError

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


class ShortWords(Words):
    """The same, of no more words than asked."""

    def __call__(self, texts, max_length=None, **options):
        return super().__call__([" ".join(text.split()[:max_length]) for text in texts])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=30, max_size=60))
def test_a_project_is_in_one_split_and_no_text_is_twice(members) -> None:
    documents = [Document(text(project * 100 + number), f"project {project}") for project, number in members]
    try:
        splits = split_documents(documents)
    except BadData:
        assert len({document.project for document in documents}) < 4
        return
    projects = {document.project for document in documents}
    for project in projects if len(projects) > 1 else ():  # one for all says nothing
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
        ('{"text": "a", "project": 7}\n', "project 7 is not a string"),
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
    model = build("llama")
    model.config.max_position_embeddings = 2048
    causal = load_dataset(model, Words(), tmp_path)
    assert causal.test.inputs["input_ids"].shape == (1, 512)
    assert int((causal.test.inputs["input_ids"] == 0).sum()) == 5  # an end token after each 90 words
    encoder = load_dataset(build("bert"), Words(), tmp_path)
    assert encoder.validation.inputs["attention_mask"].shape == (8, 90)
    assert encoder.validation.digest != encoder.test.digest
    sizes = [len(batch["input_ids"]) for batch in encoder.test.iterate_batches(3, items=7)]
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
    model.config.num_labels = 2
    splits = read_class_folders(tmp_path, model, MAX_TEXTS)
    assert sum(len(labels) for _, labels in splits.values()) == 40
    assert splits["test"][0].shape[1:] == (3, 12, 12)
    assert {int(label) for _, labels in splits.values() for label in labels} == {0, 1}
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"broken\.png is no readable image"):
        read_class_folders(tmp_path, model, MAX_TEXTS)


def test_a_line_ends_at_a_newline_only(tmp_path: Path) -> None:
    texts = ["one\u2028two", "three\u0085four", "five"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [document.text for document in read_documents(tmp_path / "a.jsonl")] == texts


def words(document: Document) -> set[tuple[str, ...]]:
    parts = document.text.split()
    return {tuple(parts[at : at + 5]) for at in range(max(1, len(parts) - 4))}


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_near_duplicates_are_those_found_by_comparing_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    header = text(99, int(rng.integers(5, 25))) + " "
    documents = [Document(header + text(int(rng.integers(8)), int(rng.integers(3, 40)))) for _ in range(12)]
    expected: list[Document] = []
    for document in documents:
        one = words(document)
        if all(len(one & words(other)) / len(one | words(other)) <= 0.5 for other in expected):
            expected.append(document)
    assert remove_near_duplicates({"calibration": [], "validation": [], "test": documents})["test"] == expected


def write_splits(folder: Path, texts: int = 8, words: int = 90) -> None:
    for number, name in enumerate(SPLITS):
        lines = [json.dumps({"text": text(1000 * number + i, words)}) for i in range(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_gets_windows_that_fit_it(family: str, tmp_path: Path) -> None:
    write_splits(tmp_path)
    inputs = load_dataset(build(family), Words(), tmp_path).test.inputs
    assert set(inputs) == {"input_ids"}
    assert inputs["input_ids"].shape[1] == 64  # the positions these models have


def test_texts_are_no_longer_than_positions_that_count_from_the_padding_s(tmp_path: Path) -> None:
    write_splits(tmp_path, words=80)
    model = build("roberta")  # 64 rows of positions, the first of which is that of padding
    inputs = load_dataset(model, ShortWords(), tmp_path).test.inputs
    assert inputs["input_ids"].shape[1] == 63
    model(**{name: tensor[:2] for name, tensor in inputs.items()})
    with pytest.raises(BadData, match="length 64: the model reads up to 63"):
        load_dataset(model, Words(), tmp_path, 64)


def test_a_decoder_that_gives_no_numbers_is_not_taken_for_an_encoder(tmp_path: Path) -> None:
    write_splits(tmp_path)
    model = build("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelError, match="no numbers"):
        load_dataset(model, Words(), tmp_path)


def test_a_length_in_place_of_the_usual_one(tmp_path: Path) -> None:
    write_splits(tmp_path, texts=30)
    model = build("llama")
    assert load_dataset(model, Words(), tmp_path, 40).test.inputs["input_ids"].shape[1] == 40
    with pytest.raises(BadData, match="length 65: the model reads up to 64"):
        load_dataset(model, Words(), tmp_path, 65)
    with pytest.raises(BadData, match=r"length 8: .* at least 16"):
        load_dataset(model, Words(), tmp_path, 8)
    write_splits(tmp_path, texts=1, words=30)
    with pytest.raises(BadData, match="has 31 tokens; at least 40"):
        load_dataset(model, Words(), tmp_path, 40)


def test_texts_are_put_together_until_they_are_as_long_as_asked(tmp_path: Path) -> None:
    write_splits(tmp_path, texts=10, words=25)

    class Cutting(Words):
        def __call__(self, texts, max_length=10**6, **options):
            return {name: tensor[:, :max_length] for name, tensor in super().__call__(texts, **options).items()}

    inputs = load_dataset(build("bert"), Cutting(), tmp_path, 60).test.inputs
    assert inputs["input_ids"].shape == (3, 60)  # three texts of 25 each time; the tenth is left over
    assert bool(inputs["attention_mask"].all())
    first = [json.loads(each)["text"] for each in (tmp_path / "test.jsonl").read_text().split("\n")[3:6]]
    assert inputs["input_ids"][1].tolist() == [1 + len(word) for word in " ".join(first).split()][:60]
    assert load_dataset(build("bert"), Cutting(), tmp_path).test.inputs["input_ids"].shape == (10, 25)


def save_images(folder: Path, per_class: int, labels: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(folder / label / f"{number}.png")


def test_every_split_sees_every_class_under_the_name_the_model_gives_it(tmp_path: Path) -> None:
    save_images(tmp_path, 120, ("zebra", "apple"))
    model = build("vit")
    model.config.label2id = {"other": 0, "zebra": 1, "last": 2, "apple": 3, "more": 4}
    splits = read_class_folders(tmp_path, model, {"calibration": 20, "validation": 20, "test": 20})
    for _, labels in splits.values():
        counts = torch.bincount(labels, minlength=5)
        assert int(counts.sum()) == 20
        assert counts[1] >= 4
        assert counts[3] >= 4
    white = Image.new("RGB", (6, 6), "white")
    white.save(tmp_path / "zebra" / "white.png")
    white.save(tmp_path / "apple" / "white.png")
    everything = read_class_folders(tmp_path, model, MAX_TEXTS)
    assert sum(int((pixels == 1).all((1, 2, 3)).sum()) for pixels, _ in everything.values()) == 1
    (tmp_path / "unknown").mkdir()
    with pytest.raises(BadData, match="name the folders as the model's classes"):
        read_class_folders(tmp_path, model, MAX_TEXTS)


@pytest.mark.parametrize(("outputs", "problem"), [(1, None), (5, "multi_label_classification")])
def test_a_model_that_chooses_no_class_takes_any_folders(tmp_path: Path, outputs: int, problem: str | None) -> None:
    save_images(tmp_path, 20, ("a", "b", "c"))
    model = build("vit")
    model.config.num_labels, model.config.problem_type = outputs, problem
    assert sum(len(labels) for _, labels in read_class_folders(tmp_path, model, MAX_TEXTS).values()) == 60


def test_pixels_are_normalised_as_the_model_was_trained(tmp_path: Path) -> None:
    model = build("vit")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.0, 0.5, 1.0], "image_std": [1.0, 0.5, 2.0]}')
    white = np.full((1, 2, 2, 3), 255, dtype=np.uint8)
    assert normalise(white, model)[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]
    model.name_or_path = str(tmp_path)
    assert normalise(white, model)[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]
    (tmp_path / "preprocessor_config.json").write_text("no json")
    with pytest.raises(BadData, match="cannot be read"):
        normalise(white, model)


def test_one_channel_models_get_grey_images(tmp_path: Path) -> None:
    save_images(tmp_path, 20, ("a", "b"))
    model = build("vit")
    model.config.num_channels, model.config.label2id = 1, {"a": 0, "b": 1}
    splits = read_class_folders(tmp_path, model, MAX_TEXTS)
    assert splits["test"][0].shape[1:] == (1, 12, 12)


def test_damaged_arrays_are_named(tmp_path: Path) -> None:
    pixels, labels = np.zeros((3, 12, 12), np.uint8), np.zeros(3, np.int64)
    for name in SPLITS:
        np.savez(tmp_path / f"{name}.npz", pixels=pixels, labels=labels)
    assert len(load_dataset(build("vit"), None, tmp_path).test) == 3
    np.savez(tmp_path / "test.npz", pixels=pixels)
    with pytest.raises(BadData, match=r"test\.npz must hold"):
        load_dataset(build("vit"), None, tmp_path)
    np.savez(tmp_path / "test.npz", pixels=pixels, labels=labels[:2])
    with pytest.raises(BadData, match=r"not uint8 \(3, 12, 12\)"):
        load_dataset(build("vit"), None, tmp_path)
    (tmp_path / "validation.npz").unlink()
    with pytest.raises(BadData, match=r"validation\.npz"):
        load_dataset(build("vit"), None, tmp_path)
