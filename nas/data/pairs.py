"""Pairs of source and target, as encoder-decoders are given them: two texts, or features of sound and a text."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data.documents import SPLITS
from nas.data.padding import check_ids, pad_id, pad_ids
from nas.data.prompts import IGNORED
from nas.data.stretches import SHARES
from nas.data.text_file import is_folder, read_text, replace_lone_surrogates
from pruning.checkpoint.tokenizer import encode
from search_spaces.errors import BadData

FILE = "pairs.jsonl"
_EXAMPLE = '{"source": "a house", "target": "ein Haus"}'
_ARRAYS = "input_features float (n, features, frames) and target int (n, longest), filled up with -100"


@dataclass(frozen=True)
class Pair:
    """A source, its target, and the split that it was assigned if it was.

    Example:
        >>> Pair("a house", "ein Haus").split is None
        True
    """

    source: str
    target: str
    split: str | None = None


def read_pairs(data: Path) -> list[Pair]:
    """The pairs of a `.jsonl` file, or of the `pairs.jsonl` in a folder.

    A line is an object with `source`, `target` and optionally `split`; whatever else it has is not read.

    Raises:
        BadData: no such file, nothing in it, or a line that is no such object.
    """
    path = data / FILE if is_folder(data) else data
    if not path.exists():
        raise BadData(f"data {path} does not exist; an encoder-decoder takes a .jsonl file of lines such as {_EXAMPLE}")
    lines = read_text(path).split("\n")
    pairs = [_read_pair(f"{path} line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise BadData(f"data {path} holds no pair; write one a line, such as {_EXAMPLE}")
    return pairs


def _read_pair(location: str, line: str) -> Pair:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{location}: each line is an object such as {_EXAMPLE} ({error})") from None
    texts = [record.get(name) for name in ("source", "target")] if isinstance(record, dict) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadData(f"{location}: each line has the texts source and target, such as {_EXAMPLE}")
    split = record.get("split") or None
    if split is not None and split not in SPLITS:
        raise BadData(f"{location}: split {split!r} is none of {', '.join(SPLITS)}; use one or leave it out")
    source, target = (replace_lone_surrogates(str(text)) for text in texts)
    return Pair(source, target, split)


def split_pairs(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs by split; of pairs with one source the first counts.

    A pair's own split is kept. Others are dealt out in the order of their sources' digests, so the split of a pair
    depends on the sources alone.

    Raises:
        BadData: one would be empty.
    """
    distinct = {pair.source: pair for pair in reversed(pairs)}
    splits = {name: [pair for pair in distinct.values() if pair.split == name] for name in SPLITS}
    free = sorted((pair for pair in distinct.values() if pair.split is None), key=lambda pair: _digest(pair.source))
    for pair in free:
        short = {name: share * len(distinct) - len(splits[name]) for name, share in SHARES.items()}
        splits[max(short, key=lambda name: short[name])].append(pair)
    empty = [name for name, members in splits.items() if not members]
    if empty:
        raise BadData(
            f"{len(distinct)} pairs of unlike sources leave nothing for {' and '.join(empty)}; at least three are "
            "needed"
        )
    return splits


def encode_pairs(model: Any, tokenizer: Any, pairs: Sequence[Pair], length: int) -> tuple[dict[str, Tensor], Tensor]:
    """Sources and the targets' beginnings as the model takes them, and the tokens that follow these.

    Args:
        length: tokens at most of a source, and of a target.

    Returns:
        `input_ids`, `attention_mask`, `decoder_input_ids` and `decoder_attention_mask`, each (n, longest), and the
        tokens of the targets (n, longest), filled up with -100.

    Raises:
        BadData: the tokenizer makes no tokens of a text, or some that the model does not know.
    """
    fill = pad_id(model, tokenizer)
    settings: dict[str, Any] = {"truncation": True, "max_length": length}
    sources = encode(tokenizer, [pair.source for pair in pairs], **settings)
    targets = _end_targets(
        model, encode(tokenizer, [pair.target for pair in pairs], as_targets=True, **settings), length
    )
    for rows in (sources, targets):
        check_ids(rows, tokenizer, model)
        bare = next((at for at, row in enumerate(rows) if not len(row)), None)
        if bare is not None:
            raise BadData(f"the tokenizer makes no tokens of the pair {pairs[bare]}; leave it out")
    return pad_ids(sources, fill) | _shift(model, targets, fill), _fill_labels(targets)


def _end_targets(model: Any, rows: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """The targets with the token that ends a text, which the model has to predict as well."""
    ends = model.config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    ended = [[int(token) for token in row] for row in rows]
    return [row if end is None or row[-1:] == [end] else [*row[: length - 1], int(end)] for row in ended]


def _shift(model: Any, targets: Sequence[Sequence[int]], fill: int) -> dict[str, Tensor]:
    """The targets as the decoder is given them: the starting token first, the last one left out."""
    start = model.config.decoder_start_token_id
    start = fill if start is None else int(start)
    given = pad_ids([[start, *row[:-1]] for row in targets], fill)
    return {f"decoder_{name}": tensor for name, tensor in given.items()}


def _fill_labels(targets: Sequence[Sequence[int]]) -> Tensor:
    ids = pad_ids(targets, 0)
    return torch.where(ids["attention_mask"].bool(), ids["input_ids"], IGNORED)


def read_features(model: Any, folder: Path, max_items: dict[str, int]) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """Features of sound and targets by split, from `calibration.npz`, `validation.npz` and `test.npz` in a folder.

    Each holds `input_features` float (n, features, frames), as the model's feature extractor makes them, and `target`
    int (n, longest), the tokens of the texts, filled up with -100. The first `max_items` of each are read.

    Raises:
        BadData: a file is missing, damaged, or holds something else.
    """
    return {name: _read_arrays(model, folder / f"{name}.npz", max_items[name]) for name in SPLITS}


def _read_arrays(model: Any, path: Path, count: int) -> tuple[dict[str, Tensor], Tensor]:
    rule = f"data {path} must hold {_ARRAYS}"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features, target = arrays["input_features"][:count], arrays["target"][:count]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(f"{rule} ({error}); write it again") from None
    frames = (model.config.num_mel_bins, 2 * model.config.max_source_positions)
    if features.shape[1:] != frames or target.ndim != 2 or len(target) != len(features) or not len(target):
        raise BadData(
            f"{rule}, with (n, {frames[0]}, {frames[1]}) features for this model, and not {features.shape} and "
            f"{target.shape}; write it again"
        )
    rows = [[int(token) for token in row if token != IGNORED] for row in target]
    if not all(rows) or max(map(max, rows)) >= model.config.vocab_size:
        raise BadData(f"{rule}, each target with tokens below {model.config.vocab_size}; write it again")
    fill = model.config.pad_token_id or 0
    given = {"input_features": torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))}
    return given | _shift(model, rows, fill), _fill_labels(rows)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
