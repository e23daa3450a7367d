"""Whether a model's weights and those in its files are the same ones: none lacking, none left over in silence."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruning.checkpoint.weight_files import Header
from search_spaces.errors import ModelError, UnusedWeights

_LOADER = "transformers.modeling_utils"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_FLOATS = ("F", "BF")


def check_complete(source: str | Path, model: Any, info: dict[str, Any], headers: dict[str, Header]) -> None:
    """Compare what was loaded with what the model has.

    Args:
        source: for messages.
        model: as loaded.
        info: the library's account: missing, unexpected and mismatched keys.
        headers: what the files say they hold.

    Raises:
        ModelError: weights are missing, of another shape, or left over inside the model, where its config must be
            wrong. Of others that are left over a warning tells.
    """
    name = type(model).__name__
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{source} lacks {len(missing)} weights that a {name} needs (first: {missing[0]}); "
            "give a complete checkpoint"
        )
    for key, stored, wanted in sorted(info["mismatched_keys"], key=lambda each: str(each[0])):
        raise ModelError(
            f"{source}: {key} is {_describe_shape(stored)} in its files and {_describe_shape(wanted)} by its config; "
            "give files that belong together"
        )
    left_over = sorted(key for key in info["unexpected_keys"] if _is_weight(key, headers))
    _check_left_over(source, model, left_over)


def _check_left_over(source: str | Path, model: Any, left_over: list[str]) -> None:
    modules, forms = dict(model.named_modules()), {_strip_numbers(key) for key in model.state_dict()}
    name = type(model).__name__
    for key in left_over:
        if _predicts_further(key, model):
            continue
        if _NUMBER.search(key) and _strip_numbers(key) in forms:
            raise ModelError(
                f"{source} holds more blocks than its config counts (first weight: {key}); correct config.json, or "
                "the model would run without them"
            )
        if _is_within_part(key, modules):
            raise ModelError(
                f"{source}: a {name} as its config describes it has no place for {key}; correct config.json, or the "
                "model would compute without it"
            )
    if left_over:
        warnings.warn(
            f"{source} holds {len(left_over)} weights that a {name} does not use (first: {left_over[0]})",
            UnusedWeights,
            stacklevel=2,
        )


def _predicts_further(key: str, model: Any) -> bool:
    """Whether a weight is of a block behind the last that predicts the token after the next one (MTP).

    Configs count those apart, and models do without them unless tokens are drafted.
    """
    config, number = model.config.get_text_config(decoder=True), _NUMBER.search(key)
    further, depth = getattr(config, "num_nextn_predict_layers", None) or 0, config.num_hidden_layers
    return number is not None and depth <= int(number[0]) < depth + further


def _strip_numbers(key: str) -> str:
    """A weight's name without the numbers of blocks and experts."""
    return _NUMBER.sub("#", key)


def _is_weight(key: str, headers: dict[str, Header]) -> bool:
    """Old checkpoints also hold masks, frequencies and single numbers, which a model makes anew."""
    if key.endswith(".inv_freq"):
        return False
    ends = (each for name, each in headers.items() if key.endswith(f".{name}") or name.endswith(f".{key}"))
    header = headers.get(key) or next(ends, None)
    return header is None or (header.dtype.startswith(_FLOATS) and bool(header.shape))


def _is_within_part(key: str, modules: dict[str, Any]) -> bool:
    """Whether a weight belongs inside a block or a layer that the model has, rather than beside all of them."""
    path = key.rpartition(".")[0]
    while path and path not in modules:
        path = path.rpartition(".")[0]
    leaf = path and not any(True for _ in modules[path].children())
    return bool(path) and (bool(leaf) or bool(_NUMBER.search(f"{path}.")))


@contextmanager
def capture_report() -> Iterator[list[str]]:
    """What the library reports of a load, which its errors point to; it is not shown."""
    heard: list[str] = []
    logger = logging.getLogger(_LOADER)
    listener = _Listener(heard)
    before = (logger.level, logger.propagate)
    logger.addHandler(listener)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())


def find_reported(heard: list[str]) -> str | None:
    """The first weight that a report calls wrong; None where there is no report."""
    wrong = (line.split()[0] for text in heard for line in text.splitlines() if "CONVERSION" in line and "|" in line)
    return next(wrong, None)


def _describe_shape(sizes: Any) -> str:
    return " x ".join(str(size) for size in sizes)
