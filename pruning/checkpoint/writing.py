"""Writing a model: in the form of the plain classes where a config can describe what is left, else in our own."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pruning.anatomy.part import PART
from pruning.checkpoint.config import get_first_line
from pruning.checkpoint.equivalence import find_first_difference
from pruning.checkpoint.rebuilding import PREFIX
from pruning.checkpoint.stored_precision import convert_to_stored
from pruning.checkpoint.weight_files import INDEX, WEIGHTS
from pruning.inference.kv_cache import keeps_own_cache
from pruning.surgery.prune import PARENT_CONFIG, RECORD
from search_spaces.architecture import Architecture
from search_spaces.errors import ModelError

_CONFIG = "config.json"
_GENERATION = "generation_config.json"


def write(model: Any, folder: Path) -> None:
    """Write config and weights into a folder, which is made if needed; what it held of another model is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob("model-*-of-*.safetensors"), folder / INDEX):
        left.unlink(missing_ok=True)
    weights, dtype = convert_to_stored(model, _collect_untied(model))
    plain, record = is_plain(model), getattr(model.config, RECORD, None)
    (_write_plain if plain else _write_own)(model, folder, weights)
    changes: dict[str, Any] = {}
    if _unties_all(model):
        changes["tie_word_embeddings"] = False
    path = folder / _CONFIG
    document = json.loads(path.read_text())
    document.pop(RECORD, None)
    if plain:
        document.pop(PART, None)
    _name_dtype(document, str(dtype).removeprefix("torch."))
    if not plain:
        document |= {"model_type": PREFIX + document["model_type"], RECORD: record}
    path.write_text(json.dumps(document | changes, indent=2) + "\n")


def _name_dtype(document: dict[str, Any], name: str) -> None:
    """Say of what dtype the weights are, in a config and those within it."""
    document.pop("torch_dtype", None)
    document["dtype"] = name
    for key, value in document.items():
        if key.endswith("_config") and isinstance(value, dict) and "model_type" in value:
            _name_dtype(value, name)


def is_plain(model: Any) -> bool:
    """Whether the plain classes build this very model from its config: only blocks are gone, and none left knows.

    Qwen3-MoE decides from a block's index whether it is dense, DiffLlama by how much its attention is scaled. Built
    from a config without the removed block, its neighbours would be others.
    """
    record = getattr(model.config, RECORD, None)
    if record is None:
        return True
    architecture = Architecture.from_json(record)
    whole = all(choice.layer in architecture.list_removed_blocks() for choice in architecture.choices)
    if not whole or keeps_own_cache(model):
        return False
    return _find_config_difference(model) is None


def check_config(model: Any) -> None:
    """Refuse a parent that its config does not describe: no folder of a part of it would come back. Takes no memory.

    Raises:
        ModelError: built from its config, it is another model.
    """
    wrong = _find_config_difference(model)
    if wrong is not None:
        raise ModelError(
            f"a {type(model).__name__} that is built from this config.json differs from the one that was loaded "
            f"({wrong}), so what is cut from it could not be read again; give a model that its config describes"
        )


def _find_config_difference(model: Any) -> str | None:
    """Where a model without weights, built from the config, differs; None where it does not."""
    try:
        with torch.device("meta"):
            twin = type(model)(type(model.config).from_dict(model.config.to_dict()))
    except Exception as error:  # a family's own checks
        return get_first_line(error)
    return find_first_difference(model, twin)


def _write_plain(model: Any, folder: Path, weights: dict[str, Tensor]) -> None:
    model.save_pretrained(folder, state_dict=weights)


def _write_own(model: Any, folder: Path, weights: dict[str, Tensor]) -> None:
    """The parent's config, and weights under the module's own names: the library renames those of an intact family."""
    config = copy.deepcopy(getattr(model, PARENT_CONFIG))
    config.architectures = [type(model).__name__]
    if model.is_remote_code():
        from transformers.dynamic_module_utils import custom_object_save

        custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)
    if model.can_generate():  # unchecked: what the parent's asks for is the parent's affair
        model.generation_config.to_json_file(folder / _GENERATION, use_diff=True, keys_to_pop=["compile_config"])
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def _collect_untied(model: Any) -> dict[str, Tensor]:
    """The weights by name. What the config ties is there once; what is shared for another reason, under each name."""
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    state = model.state_dict(keep_vars=True)
    again = {name for name, source in tied.items() if name in state and state[name] is state.get(source)}
    weights: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, tensor in state.items():
        if name not in again:
            taken = tensor.untyped_storage().data_ptr() in pointers
            pointers.add(tensor.untyped_storage().data_ptr())
            weights[name] = tensor.detach().clone() if taken else tensor.detach()
    return weights


def _unties_all(model: Any) -> bool:
    """Whether the config ties weights of which none are: other engines would take one for the other."""
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    state = model.state_dict(keep_vars=True)
    return bool(tied) and not any(state.get(name) is state.get(source) for name, source in tied.items())
