"""A dataset: tensors ready for a model, in three splits."""

import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data.documents import SPLITS, Document, read_documents
from nas.data.finite_outputs import check_numbers
from nas.data.images import read_arrays, read_class_folders
from nas.data.padding import check_ids, is_readable, pad_id, pad_ids
from nas.data.pairs import Pair, encode_pairs, read_features, read_pairs, split_pairs
from nas.data.prompts import encode_questions, load_processor
from nas.data.questions import Question, read_questions, split_questions
from nas.data.splitting import clean_splits, split_documents
from nas.data.stretches import SHARES
from nas.data.text_file import is_folder
from pruning.anatomy.part import is_encoder_decoder, is_vision_language
from pruning.anatomy.positions import count_trained_positions, find_longest_sequence
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.checkpoint.tokenizer import encode
from pruning.inference.light_copy import copy_lightly
from search_spaces.errors import BadData

WINDOW = 512  # tokens of one language-model item
TEXT_LENGTH = 128  # tokens at most of one text for an encoder
MIN_LENGTH = 16
_LONGEST_TOKEN = 200  # characters
_CHARACTERS = 16  # of a token, and of what is dropped as a copy
MAX_ITEMS = {"calibration": 16, "validation": 24, "test": 32}  # language-model items
MAX_TEXTS = {"calibration": 192, "validation": 320, "test": 400}  # encoder items, images and questions


@dataclass(frozen=True)
class Split:
    """Items along the first axis of every tensor in `inputs`.

    The first tensor has a row for each item, others may have several (the images of a question).
    `labels` are (n,) for classifiers, and the tokens of the answers (n, longest), ended by -100, for questions; of the
    targets for pairs.

    Example:
        >>> split = Split("test", {"input_ids": torch.zeros(4, 8, dtype=torch.long)})
        >>> [len(batch["input_ids"]) for batch in split.iterate_batches(3)]
        [3, 1]
    """

    name: str
    inputs: dict[str, Tensor]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def iterate_batches(self, size: int, items: int | None = None, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The inputs in order, `size` items at a time; those of the first `items` from `start` on only, if given."""
        count = len(self) if items is None else min(items, len(self))
        rows = {name: len(tensor) // len(self) for name, tensor in self.inputs.items()}
        for at in range(start, count, size):
            end = min(at + size, count)
            yield {name: tensor[at * rows[name] : end * rows[name]] for name, tensor in self.inputs.items()}

    def to(self, device: torch.device) -> "Split":
        """The same items on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Split(self.name, {name: tensor.to(device) for name, tensor in self.inputs.items()}, labels)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the content."""
        hashed = hashlib.sha256()
        labels = {} if self.labels is None else {"labels": self.labels}
        for name, tensor in sorted((self.inputs | labels).items()):
            hashed.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """The three splits; the search sees calibration and validation only.

    Example:
        >>> split = Split("test", {"input_ids": torch.zeros(4, 8, dtype=torch.long)})
        >>> len(Dataset(split, split, split).get_split("test"))
        4
    """

    calibration: Split
    validation: Split
    test: Split

    def to(self, device: torch.device) -> "Dataset":
        """The same data on a device."""
        return Dataset(self.calibration.to(device), self.validation.to(device), self.test.to(device))

    def get_split(self, name: str) -> Split:
        """A split by its name."""
        split: Split = getattr(self, name)
        return split


def load_dataset(
    model: Any, tokenizer: Any, data: Path, length: int | None = None, trust_remote_code: bool = False,
    windows: int | None = None,
) -> Dataset:  # fmt: skip
    """The dataset of a model.

    Args:
        model: decides the form: windows for causal language models, padded texts for encoders, pixels for vision,
            questions about images for vision-language models, pairs of source and target for encoder-decoders. A
            sentence embedding model is given its prompt before every text, and as many tokens as its folder allows.
        tokenizer: for text; None for images. A vision-language model's processor is read from its folder.
        data: a person's `--data`, or the `data/` folder of a reference model.
        length: tokens of every window, or of every text; texts are then put together until they are as long. The
            default is windows of 512 and every text by itself. Images and questions have the length they have.
        trust_remote_code: run the Python code that a processor carries.
        windows: for the calibration split of a language model, at most; the default is 16.

    Raises:
        BadData: as the readers say, a text model without a tokenizer, or a length that the model cannot read or the
            data cannot fill.
    """
    folder = is_folder(data)
    if is_vision_language(model):
        return _read_questions(model, data, trust_remote_code)
    if is_encoder_decoder(model):
        return _read_pairs(model, tokenizer, data, length)
    if model.main_input_name == "pixel_values":
        if not folder:
            raise BadData(f"data {data} is no folder; an image model takes a folder with one folder per class")
        return _read_images(model, data)
    if tokenizer is None:
        raise BadData("the model's folder has no tokenizer; put its tokenizer files beside the weights")
    max_length = find_longest_sequence(model) or count_trained_positions(model) or sys.maxsize
    own = read_sentence_embedding(model)
    if own is not None:
        max_length = min(max_length, own.max_length or tokenizer.model_max_length)
    if length is not None and not MIN_LENGTH <= length <= max_length:
        raise BadData(
            f"length {length}: the model reads up to {max_length} tokens, and at least {MIN_LENGTH} are needed"
        )
    if _predicts_next(model):
        return _read_windows(
            model, tokenizer, data, max_length, length, MAX_ITEMS | {"calibration": windows or MAX_ITEMS["calibration"]}
        )
    return _read_texts(model, tokenizer, data, max_length, length)


def _read_images(model: Any, data: Path) -> Dataset:
    """Images and their classes."""
    read = read_arrays if any((data / f"{name}.npz").exists() for name in SPLITS) else read_class_folders
    images = read(data, model, MAX_TEXTS)
    return Dataset(**{name: Split(name, {"pixel_values": pixels}, labels) for name, (pixels, labels) in images.items()})


def _read_windows(
    model: Any, tokenizer: Any, data: Path, max_length: int, length: int | None, counts: dict[str, int]
) -> Dataset:
    """At most so many windows of `length` tokens, else of the usual number, at most what the model reads."""
    used = {name: count * (length or WINDOW) * _CHARACTERS for name, count in counts.items()}
    documents = _read_documents_by_split(data, used, by_line=False)
    usual = min(WINDOW, max_length)
    windows = {
        name: _cut_windows(model, tokenizer, documents[name], name, usual, length, counts[name]) for name in SPLITS
    }
    return _separate(windows)


def _read_texts(model: Any, tokenizer: Any, data: Path, max_length: int, length: int | None) -> Dataset:
    """Texts by themselves, or put together until they have `length` tokens."""
    used = {name: count * (length or TEXT_LENGTH) * _CHARACTERS for name, count in MAX_TEXTS.items()}
    documents = _read_documents_by_split(data, used, by_line=True)
    if length is not None:
        documents = {name: _put_together(tokenizer, documents[name], name, length) for name in SPLITS}
    own = read_sentence_embedding(model)
    if own is not None:
        documents = {
            name: [replace(each, text=own.prepare_text(each.text)) for each in documents[name]] for name in SPLITS
        }
    longest = length or min(TEXT_LENGTH, max_length)
    return _separate({name: _pad(model, tokenizer, documents[name], name, longest) for name in SPLITS})


def _separate(inputs: dict[str, dict[str, Tensor]]) -> Dataset:
    """The splits without items that are, token by token, in another one too: unlike texts may begin alike.

    They stay in test, then in validation.

    Raises:
        BadData: nothing is left of a split.
    """
    seen: set[bytes] = set()
    splits = {}
    for name in reversed(SPLITS):
        ids = inputs[name]["input_ids"]
        mask = inputs[name].get("attention_mask", torch.ones_like(ids)).bool()
        items = [row[real].numpy().tobytes() for row, real in zip(ids, mask, strict=True)]
        kept = torch.tensor([item not in seen for item in items])
        if not kept.any():
            raise BadData(f"all items of the {name} split are in another one too; give text that repeats itself less")
        seen.update(items)
        splits[name] = Split(name, {key: tensor[kept] for key, tensor in inputs[name].items()})
    return Dataset(**splits)


def _read_questions(model: Any, data: Path, trust_remote_code: bool) -> Dataset:
    """Questions, evenly spaced where there are more than are used."""
    processor, splits = load_processor(model, trust_remote_code), split_questions(read_questions(data))
    chosen: dict[str, list[Question]] = {name: _spread(splits[name], MAX_TEXTS[name]) for name in SPLITS}
    return Dataset(**{name: Split(name, *encode_questions(model, processor, chosen[name])) for name in SPLITS})


def _read_pairs(model: Any, tokenizer: Any, data: Path, length: int | None) -> Dataset:
    """Pairs of texts of at most `length` tokens each, or features of sound with their targets."""
    if model.main_input_name == "input_features":
        read = read_features(model, data, MAX_TEXTS)
        return Dataset(**{name: Split(name, *given) for name, given in read.items()})
    if tokenizer is None:
        raise BadData("the model's folder has no tokenizer; put its tokenizer files beside the weights")
    longest = min(length or TEXT_LENGTH, count_trained_positions(model) or sys.maxsize)
    splits = split_pairs(read_pairs(data))
    chosen: dict[str, list[Pair]] = {name: _spread(splits[name], MAX_TEXTS[name]) for name in SPLITS}
    return Dataset(**{name: Split(name, *encode_pairs(model, tokenizer, chosen[name], longest)) for name in SPLITS})


def _spread(items: list[Any], count: int) -> list[Any]:
    """At most so many, evenly spaced: what belongs together (a project, an image) comes together."""
    positions = torch.linspace(0, len(items) - 1, min(len(items), count)).round().long().tolist()
    return [items[position] for position in positions]


@torch.no_grad()
def _predicts_next(model: Any) -> bool:
    """Whether it is a causal language model: what comes later does not change what is predicted before.

    Tried, not read from the config: GPT-NeoX decoders say `is_decoder: false` as BERT encoders do.

    Raises:
        ModelError: it predicts no numbers.
    """
    if not model.can_generate():
        return False
    ids = torch.tensor([[1, 2, 1], [1, 2, 3]])
    one, other = copy_lightly(model)(input_ids=ids, use_cache=False).logits[:, :2]
    check_numbers(model, {"logits": one})  # of few weights; those of all blocks are looked at when they are hashed
    return bool((one - other).abs().max() <= 1e-4 * one.abs().max())


def _read_documents_by_split(data: Path, used: dict[str, int], by_line: bool) -> dict[str, list[Document]]:
    files = {name: data / f"{name}.jsonl" for name in SPLITS}
    if all(path.is_file() for path in files.values()):
        return clean_splits({name: read_documents(path) for name, path in files.items()}, used)
    return split_documents(read_documents(data), used, by_line)


def _cut_windows(
    model: Any, tokenizer: Any, documents: list[Document], name: str, max_length: int, length: int | None, wanted: int
) -> dict[str, Tensor]:
    """(n, window): documents joined by the end token, packed, the remainder discarded."""
    end = [tokenizer.eos_token_id] if is_readable(tokenizer.eos_token_id, model) else []
    stream: list[int] = []
    for document in documents:
        ids = encode(tokenizer, document.text, add_special_tokens=False, verbose=False)
        check_ids([ids], tokenizer, model)
        stream += ids + (end if document.ends else [])
    window = length or min(max_length, len(stream))
    min_length = length or MIN_LENGTH
    if len(stream) < min_length:
        raise BadData(
            f"the {name} split has {len(stream)} tokens; at least {min_length} are needed, so give more text, about "
            f"{math.ceil(min_length / SHARES[name])} tokens in all"
        )
    count = len(stream) // window
    # Evenly spaced over the whole text, so that few windows still see every project.
    chosen = torch.linspace(0, count - 1, min(count, wanted)).round().long()
    return {"input_ids": torch.tensor(stream[: count * window]).reshape(count, window)[chosen]}


def _pad(model: Any, tokenizer: Any, documents: list[Document], name: str, length: int) -> dict[str, Tensor]:
    """(n, longest) ids and mask, padded to the longest text, at most `length` tokens.

    Texts that the tokenizer makes no token of are left out.
    """
    texts = [document.text for document in _spread(documents, MAX_TEXTS[name])]
    rows = [row for row in _shorten(tokenizer, texts, length) if row]
    if not rows:
        raise BadData(f"the tokenizer makes no tokens of the {len(texts)} texts of the {name} split; give others")
    check_ids(rows, tokenizer, model)
    return pad_ids(rows, pad_id(model, tokenizer))


def _shorten(tokenizer: Any, texts: list[str], length: int) -> list[list[int]]:
    """The first `length` tokens of each text, special ones among them; of a long text only its beginning is split."""
    begins = [text[: length * _LONGEST_TOKEN] for text in texts]
    rows = encode(tokenizer, begins, truncation=True, max_length=length)
    short = [len(row) < length and len(begin) < len(text) for row, begin, text in zip(rows, begins, texts, strict=True)]
    if any(short):
        rows = encode(tokenizer, texts, truncation=True, max_length=length)
    return [[int(token) for token in row] for row in rows]


def _put_together(tokenizer: Any, documents: list[Document], name: str, length: int) -> list[Document]:
    """Consecutive documents as one as soon as they have `length` tokens; the remainder is discarded."""
    joined: list[Document] = []
    parts: list[str] = []
    for document in documents:
        parts.append(document.text)
        (ids,) = encode(tokenizer, [" ".join(parts)], truncation=True, max_length=length)
        if len(ids) >= length:
            joined.append(Document(" ".join(parts)))
            parts = []
    if not joined:
        raise BadData(f"the {name} split has fewer than {length} tokens; give more text or ask for a shorter length")
    return joined
