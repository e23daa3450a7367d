"""Models on disk: safetensors only, no code from a checkpoint unless allowed, pruned models exactly as they were.

A result that lost whole blocks only is an ordinary Hugging Face folder. Any other is marked by the model type
`nas_<family>`, so that the plain classes refuse it instead of filling the dropped parts with random weights;
`load` rebuilds it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pruning.anatomy import read_anatomy
from pruning.decoding import keeps_own_cache
from pruning.reduction.ranker import NAME as RANKER
from pruning.remote_code import never_ask
from pruning.surgery import RECORD, apply, check_fits
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError, ModelError, UnreadableModel, UnsafeCheckpoint
from search_spaces.unit import Kind, Unit

_PREFIX = "nas_"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS = "model.safetensors"
_COMPANIONS = (
    "tokenizer*",
    "*_tokens*.json",
    "vocab*",
    "merges.txt",
    "*.model",  # SentencePiece
    "chat_template*",
    "*processor_config.json",
)


def load_parent(source: str | Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> Any:
    """The model in a Hugging Face folder or of a hub id, in eval mode.

    Args:
        source: a folder, or `organisation/name`. What looks like a path is never looked up at a hub.
        dtype: the weights are converted to it.
        trust_remote_code: run the Python code that the checkpoint carries.

    Raises:
        ModelError: nothing there, damaged, or weights missing.
        UnsafeCheckpoint: pickled weights only, or code that was not allowed.
        UnreadableModel: an encoder-decoder model.
    """
    never_ask()
    local = _local(source)
    config = _read_config(source, local, trust_remote_code)
    if getattr(config, "is_encoder_decoder", False):
        raise UnreadableModel(
            f"{source} is a {config.model_type} model, an encoder-decoder; give a model with one stack of blocks"
        )
    loader = _model_class(config, trust_remote_code)
    options = {"use_safetensors": True, "local_files_only": local is not None, "trust_remote_code": trust_remote_code}
    try:
        model, info = loader.from_pretrained(str(source), dtype=dtype, output_loading_info=True, **options)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{source} cannot be loaded: {_first_line(error)}; check that the download is complete"
        ) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{source} lacks {len(missing)} weights that a {type(model).__name__} needs (first: {missing[0]}); "
            "give a complete checkpoint"
        )
    return model.eval()


def save(model: Any, folder: Path, companions: Path | None = None) -> None:
    """Write a model, pruned or not; `load` gives it back exactly.

    Args:
        model: what `prune` returned.
        folder: made if needed.
        companions: a folder whose tokenizer and preprocessor files are copied beside the weights.

    Raises:
        ArchitectureError: a config of this family cannot describe the blocks that are left.
    """
    _check_describable(model)
    folder.mkdir(parents=True, exist_ok=True)
    record = getattr(model.config, RECORD, None)
    partial = record is not None and (_partial(Architecture.from_json(record)) or keeps_own_cache(model))
    if partial:
        _save_partial(model, folder)
    else:
        model.save_pretrained(folder)
    path = folder / "config.json"
    document = json.loads(path.read_text())
    document.pop(RECORD, None)
    if partial:
        document |= {"model_type": _PREFIX + document["model_type"], RECORD: record}
    path.write_text(json.dumps(document, indent=2) + "\n")
    if companions is not None:
        for pattern in _COMPANIONS:
            for companion in companions.glob(pattern):
                shutil.copyfile(companion, folder / companion.name)


def _save_partial(model: Any, folder: Path) -> None:
    """Weights under the module's own names: the library's savers rename those of an intact family."""
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    stored: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        stored.setdefault(tensor.data_ptr(), name)  # tied weights are written once
    names = set(stored.values())
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name in names}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})


def _check_describable(model: Any) -> None:
    """Refuse what would come back as another model: blocks whose kind a config ties to their place.

    Qwen3-MoE decides from a block's index whether it is dense. Built from the config without the removed block,
    its neighbours would change kind, and loaders fill what is missing with random weights.
    """
    try:
        with torch.device("meta"):
            twin = type(model)(type(model.config).from_dict(model.config.to_dict()))
        shapes = {name: tensor.shape for name, tensor in twin.state_dict().items()}
        named = ((name, tensor.shape) for name, tensor in model.state_dict().items() if RANKER not in name)
        wrong = next((name for name, shape in named if shapes.get(name) != shape), None)
    except (ValueError, IndexError, KeyError) as error:
        wrong = _first_line(error)
    if wrong is not None:
        raise ArchitectureError(
            f"a {model.config.model_type} config cannot describe the blocks that are left ({wrong}); "
            "drop attention and MLP units instead of whole blocks"
        )


def load(folder: str | Path, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
    """The model in a folder that `save` wrote, or any other Hugging Face folder; in eval mode.

    Args:
        folder: the result folder's `winner/`, or any model folder.
        dtype: convert the weights; None keeps them as they are on disk.
        trust_remote_code: run the Python code that the folder carries.

    Raises:
        ModelError: as `load_parent`.
    """
    local = _local(folder)
    if local is None:
        raise ModelError(f"{folder} is no folder; nas.load reads a local folder with config.json and safetensors")
    document = _read_json(local / "config.json")
    stored = _stored_dtype(document) if dtype is None else dtype
    if RECORD not in document:
        return load_parent(local, dtype=stored, trust_remote_code=trust_remote_code)
    return _rebuild(local, document, stored)


def is_pruned(folder: Path) -> bool:
    """Whether a folder holds a partly pruned model that `load` must rebuild."""
    path = folder / "config.json"
    return path.is_file() and RECORD in _read_json(path)


def _rebuild(folder: Path, document: dict[str, Any], dtype: torch.dtype) -> Any:
    """Build the parent's shape with the remaining blocks, drop the units again, then read the weights."""
    architecture = Architecture.from_json(document.pop(RECORD))
    model = _from_document(folder, document, dtype)
    anatomy, remaining = read_anatomy(model), _remaining(architecture)
    check_fits(anatomy, remaining)
    apply(model, anatomy, remaining, architecture)
    setattr(model.config, RECORD, architecture.to_json())
    try:
        result = model.load_state_dict(_read_weights(folder), strict=False)
    except RuntimeError as error:  # a shape
        raise _mismatch(folder, str(error).strip().splitlines()[-1].strip()) from error
    missing = [name for name in result.missing_keys if name not in model.all_tied_weights_keys]
    if missing or result.unexpected_keys:
        raise _mismatch(folder, (missing or result.unexpected_keys)[0])
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _from_document(folder: Path, document: dict[str, Any], dtype: torch.dtype) -> Any:
    """A model with new weights from a config that `save` marked."""
    try:
        document["model_type"] = document["model_type"].removeprefix(_PREFIX)
        config = transformers.AutoConfig.for_model(**document)
        return _model_class(config, False)._from_config(config, dtype=dtype).eval()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder}: no model can be built from its config ({_first_line(error)}); write it again"
        ) from error


def _mismatch(folder: Path, what: str) -> ModelError:
    return ModelError(f"{folder}: weights and architecture do not belong together (first: {what}); write it again")


def _remaining(architecture: Architecture) -> Architecture:
    """The partial drops of parts, counted among the blocks that are left."""
    left = [layer for layer in range(architecture.depth) if layer not in architecture.removed_blocks()]
    parts = [unit for unit in architecture.structure.dropped if unit.kind is not Kind.BLOCK]
    dropped = {Unit(left.index(unit.layer), unit.kind) for unit in parts}
    return Architecture(len(left), frozenset(dropped))


def _partial(architecture: Architecture) -> bool:
    return any(unit.kind is not Kind.BLOCK for unit in architecture.dropped)


def _local(source: str | Path) -> Path | None:
    """The folder, or None for a hub id.

    Raises:
        ModelError: when it can only be meant as a path and is no folder.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    text = str(source)
    looks_like_path = (
        isinstance(source, Path)
        or text.startswith((".", "/", "~"))
        or text.count("/") != 1
        or path.exists()
        or path.parent.is_dir()  # `results/winer` beside `results/winner` is a slip, not an organisation
    )
    if looks_like_path:
        raise ModelError(
            f"model {text!r} is no folder here; give a Hugging Face folder, a hub id (org/name) or a reference model"
        )
    return None


def _read_config(source: str | Path, local: Path | None, trust_remote_code: bool) -> Any:
    if local is not None:
        document = _read_json(local / "config.json")
        if document.get("auto_map") and not trust_remote_code:
            raise UnsafeCheckpoint(f"{local} carries Python code of its own; pass --trust-remote-code to run it")
        if RECORD in document:
            raise ModelError(f"{local} is pruned already; load it with nas.load, or give its parent")
        if not list(local.glob("*.safetensors")):
            if any(list(local.glob(pattern)) for pattern in _PICKLES):
                raise UnsafeCheckpoint(
                    f"{local} has pickled weights only, which can run code when read; save the model as safetensors"
                )
            raise ModelError(f"{local} has no *.safetensors weights; give a complete Hugging Face folder")
    try:
        return transformers.AutoConfig.from_pretrained(
            str(source), local_files_only=local is not None, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UnsafeCheckpoint(
                f"{source} carries Python code of its own; pass --trust-remote-code to run it"
            ) from error
        raise ModelError(
            f"{source}: its config cannot be read ({_first_line(error)}); give a Hugging Face model"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no config.json; give a Hugging Face folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no JSON ({error}); give an undamaged Hugging Face folder") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path} is no JSON object; give an undamaged Hugging Face folder")
    return document


def _model_class(config: Any, trust_remote_code: bool) -> Any:
    names = getattr(config, "architectures", None) or []
    if trust_remote_code and getattr(config, "auto_map", None):
        return (
            transformers.AutoModelForCausalLM if "AutoModelForCausalLM" in config.auto_map else transformers.AutoModel
        )
    found = getattr(transformers, names[0], None) if names else None
    known = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if known else transformers.AutoModel


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / _WEIGHTS)
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {_WEIGHTS}; write it again") from None
    except SafetensorError as error:
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}; write it again") from error
    return weights


def _stored_dtype(document: dict[str, Any]) -> torch.dtype:
    name = document.get("dtype") or document.get("torch_dtype") or "float32"
    found = getattr(torch, str(name), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
