"""A winner's folder as an MLflow model: `mlflow.pyfunc.load_model` on it, or on its registered version, predicts.

MLflow finds `MLmodel` in the folder, imports this module and asks `_load_pyfunc` for something with `predict`.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

MLMODEL, REQUIREMENTS = "MLmodel", "requirements.txt"
_TEXT = "text"  # the column of a table that is read


def write_mlmodel(folder: Path) -> None:
    """Write `MLmodel` and `requirements.txt` into a winner's folder."""
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    model = Model()
    add_to_model(model, loader_module=__name__)
    model.save(str(folder / MLMODEL))
    (folder / REQUIREMENTS).write_text(f"nas=={version('nas')}\n")


def _load_pyfunc(folder: str) -> "Predictor":
    """What MLflow calls."""
    return Predictor(Path(folder))


class Predictor:
    """A winner that predicts from texts, token ids, images, or named arrays."""

    def __init__(self, folder: Path) -> None:
        """Load the model; its tokenizer is read when the first text comes."""
        from pruning.checkpoint import load

        self._folder, self._model = folder, load(folder).eval()
        self._tokenizer: Any = None

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """The model's outputs as a float32 array: logits, or of a model without a head one embedding per item.

        Args:
            model_input: texts (a list, a series, or a table with a column `text`), token ids (items, tokens), images
                (uint8 (items, height, width[, 3]), or float (items, channels, height, width) as the model takes them),
                or a mapping of the model's own inputs by name.
            params: none are known.

        Raises:
            BadData: it is none of these, or the model takes others.
        """
        import torch

        from nas.quality.embedding import DEFAULT, embed
        from pruning.checkpoint.sentence_embedding import read_sentence_embedding

        inputs = self._read_inputs(_convert_to_plain(model_input))
        with torch.inference_mode():
            output = self._model(**inputs)
            if "logits" in output:
                return output.logits.float().numpy()
            return embed(self._model, inputs, read_sentence_embedding(self._model) or DEFAULT).float().numpy()

    def _read_inputs(self, given: Any) -> dict[str, Any]:
        """By name, as tensors."""
        import numpy as np
        import torch

        from nas.data.images import normalise
        from pruning.anatomy.part import is_encoder_decoder
        from search_spaces.errors import BadData

        if isinstance(given, Mapping):
            return {name: torch.as_tensor(np.asarray(value)) for name, value in given.items()}
        if is_encoder_decoder(self._model):
            raise BadData("an encoder-decoder takes arrays by name: its source, and the target as decoder_input_ids")
        takes = self._model.main_input_name
        if isinstance(given, list) and given and all(isinstance(each, str) for each in given) and takes == "input_ids":
            return self._encode(given)
        array = _convert_to_array(given)
        if takes == "input_ids" and array.ndim == 2 and array.dtype.kind in "iu":
            return {takes: torch.from_numpy(array.astype(np.int64))}
        if takes == "pixel_values" and array.dtype == np.uint8 and array.ndim in (3, 4):
            return {takes: normalise(array, self._model)}
        if takes == "pixel_values" and array.dtype.kind == "f" and array.ndim == 4:
            return {takes: torch.from_numpy(array.astype(np.float32))}
        wanted = "texts or token ids (items, tokens)" if takes == "input_ids" else "images (items, height, width[, 3])"
        raise BadData(f"input of {array.dtype} {array.shape}: this model takes {wanted}; give these, or arrays by name")

    def _encode(self, texts: list[str]) -> dict[str, Any]:
        from transformers import AutoTokenizer

        from pruning.anatomy.language_model import find_language_config

        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(
                self._folder, config=self._model.config, local_files_only=True, trust_remote_code=False
            )
            if self._tokenizer.pad_token is None:
                self._tokenizer.pad_token = self._tokenizer.eos_token
        max_length = getattr(find_language_config(self._model), "max_position_embeddings", None)
        encoded = self._tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=max_length is not None,
            max_length=max_length,
            return_tensors="pt",
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _convert_to_plain(given: Any) -> Any:
    """Tables and series, in which MLflow's server hands things over, as lists; the rest as it is."""
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        column = _TEXT if _TEXT in given.columns else given.columns[0]
        return given[column].tolist() if len(given.columns) == 1 or column == _TEXT else given.to_numpy()
    if isinstance(given, pd.Series):
        return given.tolist()
    return [given] if isinstance(given, str) else given


def _convert_to_array(given: Any) -> Any:
    """Raises BadData where rows differ in length."""
    import numpy as np

    from search_spaces.errors import BadData

    try:
        return np.asarray(given)
    except ValueError as error:
        raise BadData(f"input is no array ({error}); make its rows equally long, or give texts") from None
