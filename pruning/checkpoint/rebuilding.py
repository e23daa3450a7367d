"""Pruned models that only `load` can read: their parent's shape is built, the parts dropped again, the weights read."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint.config import get_first_line, use_torch_s_own
from pruning.checkpoint.model_class import find_class
from pruning.surgery.prune import RECORD, apply, check_fits
from search_spaces.architecture import Architecture
from search_spaces.errors import ModelError
from search_spaces.kinds import AFTER_BLOCKS
from search_spaces.unit import Unit

_FLOAT = "__float__"
PREFIX = "nas_"  # before the model type of such a folder


def rebuild(
    folder: Path, document: dict[str, Any], files: tuple[Path, ...], dtype: torch.dtype, trust_remote_code: bool = False
) -> Any:
    """The model that `writing.write` wrote.

    The parent is built in full, with random weights: what a block takes from its place (its kind, a constant) is
    then what it was. So the memory of the parent is needed while the model is read.

    Args:
        folder: for messages, and the generation config in it.
        document: its config.json, of the parent but for its mark and the record of what was dropped.
        files: the weights.
        dtype: of the model.
        trust_remote_code: whether a class of the folder's own may be built.

    Raises:
        ModelError: config, record and weights do not belong together.
        ArchitectureError: the record is of another depth.
    """
    architecture = Architecture.from_json(document.pop(RECORD))
    model = _build_parent(folder, document, dtype, trust_remote_code)
    anatomy = read_anatomy(model)
    left = _renumber_remaining(architecture)
    lacks = anatomy.depth == left.depth  # as the first release wrote folders: the config is of the blocks that are left
    check_fits(anatomy, left if lacks else architecture)
    apply(model, anatomy, left if lacks else architecture, architecture)
    _fill(model, _collect_weights(folder, files), folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _renumber_remaining(architecture: Architecture) -> Architecture:
    """What is chosen for the parts of the blocks that are left, counted among those, and for what follows them."""
    removed = architecture.list_removed_blocks()
    position = {layer: at for at, layer in enumerate(x for x in range(architecture.depth) if x not in removed)}
    parts = [choice for layer in position for choice in architecture.list_block_choices(layer)]
    moved = (Unit(position[choice.layer], choice.unit.kind).choose(choice.level) for choice in parts)
    return Architecture(len(position), frozenset((*moved, *architecture.list_block_choices(AFTER_BLOCKS))))


def _build_parent(folder: Path, document: dict[str, Any], dtype: torch.dtype, trust_remote_code: bool) -> Any:
    try:
        document["model_type"] = document["model_type"].removeprefix(PREFIX)
        config = _build_config(folder, document, trust_remote_code)
        use_torch_s_own(config)
        loader = find_class(folder, config, {}, trust_remote_code)
        own = trust_remote_code and "auto_map" in document
        model = loader.from_config(config, dtype=dtype, trust_remote_code=True) if own else loader._from_config(
            config, dtype=dtype
        )  # fmt: skip
    except Exception as error:  # a family's own checks and code, with whatever the config asks for
        raise ModelError(
            f"{folder}: no model can be built from its config ({get_first_line(error)}); write it again"
        ) from error
    return model.eval()


def _build_config(folder: Path, document: dict[str, Any], trust_remote_code: bool) -> Any:
    auto_class = document.get("auto_map", {}).get("AutoConfig") if trust_remote_code else None
    if auto_class is None:
        return transformers.AutoConfig.for_model(**_decode_floats(document))
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = get_class_from_dynamic_module(auto_class, str(folder)).from_dict(document)
    config.name_or_path = str(folder)
    return config


def _decode_floats(value: Any) -> Any:
    """A document in which the library has written what JSON has no number for: `{"__float__": "Infinity"}`."""
    if isinstance(value, dict):
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _decode_floats(each) for key, each in value.items()}
    return [_decode_floats(each) for each in value] if isinstance(value, list) else value


def _collect_weights(folder: Path, files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    try:
        return {name: tensor for path in files for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise ModelError(f"{folder} cannot be loaded: {get_first_line(error)}; write it again") from error


def _fill(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Load the weights. What the config ties is one parameter only where the file has one tensor for it."""
    tied = dict(model.all_tied_weights_keys)
    for name in tied.keys() & weights.keys():
        if tied[name] in weights:
            _untie(model, name)
    try:
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a shape
        raise _build_mismatch_error(folder, str(error).strip().splitlines()[-1].strip()) from error
    missing = [name for name in result.missing_keys if tied.get(name) not in weights]
    if missing or result.unexpected_keys:
        raise _build_mismatch_error(folder, (missing or result.unexpected_keys)[0])


def _untie(model: Any, name: str) -> None:
    """Give a module its own parameter."""
    path, _, attribute = name.rpartition(".")
    owner, value = model.get_submodule(path), model.get_parameter_or_buffer(name)
    own = value.detach().clone()
    setattr(owner, attribute, nn.Parameter(own, value.requires_grad) if isinstance(value, nn.Parameter) else own)
    model.all_tied_weights_keys.pop(name)


def _build_mismatch_error(folder: Path, what: str) -> ModelError:
    return ModelError(f"{folder}: weights and architecture do not belong together (first: {what}); write it again")
