"""A dataset: tensors ready for a model, in three splits."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data.documents import SPLITS, Document, read_documents
from nas.data.images import read_arrays, read_class_folders
from nas.data.splitting import split_documents
from search_spaces.errors import BadData

WINDOW = 512  # tokens of one language-model item
TEXT_LENGTH = 128  # tokens at most of one text for an encoder
MOST = {"calibration": 16, "validation": 24, "test": 32}  # language-model items
MOST_TEXTS = {"calibration": 192, "validation": 320, "test": 400}  # encoder items and images


@dataclass(frozen=True)
class Split:
    """Items along the first axis of every tensor in `inputs`; `labels` (n,) for classifiers."""

    name: str
    inputs: dict[str, Tensor]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int, items: int | None = None, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The inputs in order, `size` items at a time; those of the first `items` from `start` on only, if given."""
        count = len(self) if items is None else min(items, len(self))
        for at in range(start, count, size):
            yield {name: tensor[at : min(at + size, count)] for name, tensor in self.inputs.items()}

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the content."""
        hashed = hashlib.sha256()
        for name, tensor in sorted(self.inputs.items()):
            hashed.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """The three splits; the search sees calibration and validation only."""

    calibration: Split
    validation: Split
    test: Split

    def split(self, name: str) -> Split:
        """A split by its name."""
        found: Split = getattr(self, name)
        return found


def load_dataset(model: Any, tokenizer: Any, data: Path) -> Dataset:
    """The dataset of a model.

    Args:
        model: decides the form: windows for causal language models, padded texts for encoders, pixels for vision.
        tokenizer: for text; None for images.
        data: a person's `--data`, or the `data/` folder of a reference model.

    Raises:
        BadData: as the readers say, or a text model without a tokenizer.
    """
    if model.main_input_name == "pixel_values":
        if not data.is_dir():
            raise BadData(f"data {data} is no folder; an image model takes a folder with one folder per class")
        read = read_arrays if any((data / f"{name}.npz").exists() for name in SPLITS) else read_class_folders
        return Dataset(**{
            name: Split(name, {"pixel_values": pixels}, labels)
            for name, (pixels, labels) in read(data, model, MOST_TEXTS).items()
        })  # fmt: skip
    if tokenizer is None:
        raise BadData("the model's folder has no tokenizer; put its tokenizer files beside the weights")
    documents = _documents_by_split(data)
    make, longest = (_windows, WINDOW) if _predicts_next(model) else (_padded, TEXT_LENGTH)
    length = min(longest, getattr(model.config, "max_position_embeddings", None) or longest)
    return Dataset(**{name: Split(name, make(tokenizer, documents[name], name, length)) for name in SPLITS})


@torch.no_grad()
def _predicts_next(model: Any) -> bool:
    """Whether it is a causal language model: what comes later does not change what is predicted before.

    Tried, not read from the config: GPT-NeoX decoders say `is_decoder: false` as BERT encoders do.
    """
    if not model.can_generate():
        return False
    ids = torch.tensor([[1, 2, 1], [1, 2, 3]])
    one, other = model(input_ids=ids, use_cache=False).logits[:, :2]
    return bool((one - other).abs().max() <= 1e-4 * one.abs().max())


def _documents_by_split(data: Path) -> dict[str, list[Document]]:
    files = {name: data / f"{name}.jsonl" for name in SPLITS}
    if all(path.exists() for path in files.values()):
        return {name: read_documents(path) for name, path in files.items()}
    return split_documents(read_documents(data))


def _windows(tokenizer: Any, documents: list[Document], name: str, length: int) -> dict[str, Tensor]:
    """(n, window): documents joined by the end token, packed, the remainder discarded."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream: list[int] = []
    for document in documents:
        stream += tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"] + end
    window = min(length, len(stream))
    count = len(stream) // window if window else 0
    if window < 16:
        raise BadData(f"the {name} split has {len(stream)} tokens; at least 16 are needed, so give more text")
    # Evenly spaced over the whole text, so that few windows still see every project.
    chosen = torch.linspace(0, count - 1, min(count, MOST[name])).round().long()
    return {"input_ids": torch.tensor(stream[: count * window]).reshape(count, window)[chosen]}


def _padded(tokenizer: Any, documents: list[Document], name: str, length: int) -> dict[str, Tensor]:
    """(n, length) ids and mask, padded to the longest text, at most `length` tokens."""
    # Evenly spaced, as documents come project by project.
    chosen = torch.linspace(0, len(documents) - 1, min(len(documents), MOST_TEXTS[name])).round().long().tolist()
    texts = [documents[index].text for index in chosen]
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}
