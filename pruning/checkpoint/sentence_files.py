"""The files of Sentence Transformers beside a model: what they say, and which of them belong to a copy of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pruning.checkpoint.sentence_embedding import COSINE, Dense, Layer, LayerNorm, Normalize, Pooling, SentenceEmbedding
from pruning.checkpoint.tokenizer import encode, load_tokenizer
from search_spaces.errors import ModelError, UnsafeCheckpoint

_MODULES = "modules.json"
_MODEL = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers."
_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TEXTS = tuple(f"sentence_{family}_config.json" for family in _FAMILIES)
_WEIGHTS = "model.safetensors"
_FLAGS = {  # of pooling, as older folders have them; several are joined in this order
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_REPAIR = f"remove {_MODULES} from the folder, and its model is taken by itself"


def read_sentence_embedding(source: str | Path, trust_remote_code: bool = False) -> SentenceEmbedding | None:
    """How the model in a folder, or of a hub id, embeds texts; None where no file says that it does.

    Rerankers (cross-encoders) are no embedding models: their folders have such files and a head that is judged.

    Args:
        source: a folder, or `organisation/name`.
        trust_remote_code: for the tokenizer, which is read where prompts are not pooled.

    Raises:
        ModelError: a file that is damaged, or names steps that are not known here.
        UnsafeCheckpoint: weights of a step that are pickled only.
    """
    modules = _read(source, _MODULES)
    if modules is None:
        return None
    general = _read_settings(source, _MODEL)
    kind = general.get("model_type", "SentenceTransformer")
    if kind == "CrossEncoder":
        return None
    if kind != "SentenceTransformer":
        raise ModelError(f"{source} is a {kind} of Sentence Transformers, whose embeddings are not known; {_REPAIR}")
    _, (_, pooling), *rest = _read_steps(source, modules)
    texts = next((settings for name in _TEXTS if (settings := _read_settings(source, name))), {})
    if texts.get("module_output_name", "token_embeddings") != "token_embeddings":
        raise ModelError(f"{source} pools inside of its model, in a way that is not known; {_REPAIR}")
    prompt = (general.get("prompts") or {}).get(general.get("default_prompt_name")) or ""
    pooled = _read_settings(source, f"{pooling}/config.json")
    return SentenceEmbedding(
        pooling=_read_modes(source, pooled),
        layers=tuple(_read_layer(source, name, path) for name, path in rest),
        similarity=general.get("similarity_fn_name") or COSINE,
        max_length=texts.get("max_seq_length"),
        lower_case=bool(texts.get("do_lower_case")),
        prompt=prompt,
        skipped=0 if pooled.get("include_prompt", True) else _count_prompt_tokens(source, prompt, trust_remote_code),
    )


def settle_unused(model: Any, missing: set[str]) -> set[str]:
    """The missing weights of a loaded embedding model that matter: its pooler is not asked, and set to zero.

    Checkpoints of other heads have none, and the library would fill it at random, another way at every load.

    Args:
        missing: names of weights that the files lack.
    """
    unused = {name for name in missing if name.startswith("pooler.")}
    with torch.no_grad():
        for name in unused:
            model.get_parameter_or_buffer(name).zero_()
    return missing - unused


def list_sentence_files(folder: Path) -> Iterator[Path]:
    """The files of a folder that say how its model embeds texts, relative to it; nothing pickled is among them."""
    modules = _read(folder, _MODULES)
    if modules is None:
        return
    yield from (Path(name) for name in (_MODULES, _MODEL, *_TEXTS) if (folder / name).is_file())
    for path in sorted({path for _, path in _read_named_steps(folder, modules) if path}):
        for file in sorted((folder / path).glob("*")):
            if file.is_file() and file.suffix in {".json", ".safetensors", ".txt"}:
                yield file.relative_to(folder)


def _read_steps(source: str | Path, modules: Any) -> list[tuple[str, str]]:
    """(class, folder) of every step: a transformer in the folder itself, then a pooling, then others."""
    steps = [(name, path) for name, path in _read_named_steps(source, modules) if name != "Dropout"]
    names = [name for name, _ in steps]
    if names[:2] != ["Transformer", "Pooling"] or steps[0][1]:
        named = " in ".join(steps[0]) if steps and steps[0][1] else ", ".join(names) or "no steps"
        raise ModelError(f"{source}/{_MODULES} names {named}; a Transformer in the folder, then Pooling, go; {_REPAIR}")
    return steps


def _read_named_steps(source: str | Path, modules: Any) -> list[tuple[str, str]]:
    """(class, folder) of every entry of modules.json; a class that is not the package's keeps its full name.

    Raises:
        ModelError: it is no such list, or names a folder elsewhere.
    """
    try:
        entries = [(str(entry["type"]), str(entry["path"])) for entry in modules]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{source}/{_MODULES} is no list of types and paths ({error}); write it again") from None
    for _, path in entries:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ModelError(f"{source}/{_MODULES} names the path {path!r}, outside of the folder; correct it")
    return [(name.rpartition(".")[2] if name.startswith(_PACKAGE) else name, path) for name, path in entries]


def _read_modes(source: str | Path, config: dict[str, Any]) -> tuple[Pooling, ...]:
    named = config.get("pooling_mode")
    if named is None:
        return tuple(mode for flag, mode in _FLAGS.items() if config.get(flag)) or (Pooling.MEAN,)
    names = [named] if isinstance(named, str) else list(named)
    try:
        return tuple(Pooling(name) for name in names)
    except ValueError:
        known = ", ".join(Pooling)
        raise ModelError(f"{source} pools by {', '.join(map(str, names))}; known are {known}; {_REPAIR}") from None


def _read_layer(source: str | Path, name: str, path: str) -> Layer:
    """A step after the pooling.

    Raises:
        ModelError: it is not known, or not a step of whole vectors.
        UnsafeCheckpoint: its weights are pickled.
    """
    config = _read_settings(source, f"{path}/config.json")
    inputs = config.get("module_input_name", "sentence_embedding")
    if inputs != "sentence_embedding" or (config.get("module_output_name") or inputs) != inputs:
        raise ModelError(f"{source}/{path} works on {inputs}, not on the embedding of a text; {_REPAIR}")
    match name:
        case "Normalize":
            return Normalize()
        case "LayerNorm":
            weights = _read_weights(source, path)
            return LayerNorm(weights["norm.weight"], weights["norm.bias"])
        case "Dense":
            weights = _read_weights(source, path)
            return Dense(
                weights["linear.weight"], weights.get("linear.bias"), _read_activation(source, path, config),
                bool(config.get("use_residual")), weights.get("residual.weight"),
            )  # fmt: skip
    raise ModelError(f"{source}/{_MODULES} names {name}, a step that is not known; {_REPAIR}")


def _read_activation(source: str | Path, path: str, config: dict[str, Any]) -> str:
    """The name of a class of `torch.nn`; nothing else is imported."""
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, name = activation.rpartition(".")
    activation_class = getattr(nn, name, None)
    if not package.startswith("torch.nn") or not (
        isinstance(activation_class, type) and issubclass(activation_class, nn.Module)
    ):
        raise ModelError(f"{source}/{path} has the activation {activation}, which is no class of torch.nn; {_REPAIR}")
    return name


def _read_weights(source: str | Path, path: str) -> dict[str, Tensor]:
    file = _find(source, f"{path}/{_WEIGHTS}")
    if file is None:
        if _find(source, f"{path}/pytorch_model.bin") is not None:
            raise UnsafeCheckpoint(
                f"{source}/{path} has pickled weights only, which can run code when read; save it as safetensors"
            )
        raise ModelError(f"{source}/{path} has no {_WEIGHTS}; give a complete folder")
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise ModelError(f"{file} cannot be read ({error}); give an undamaged folder") from error


def _count_prompt_tokens(source: str | Path, prompt: str, trust_remote_code: bool) -> int:
    """How many tokens a prompt takes with what the tokenizer puts before it, without what it puts behind.

    Raises:
        ModelError: there is no tokenizer, or none that can be read.
    """
    if not prompt:
        return 0
    tokenizer = load_tokenizer(source, trust_remote_code)
    if tokenizer is None:
        raise ModelError(f"{source} has a prompt and no tokenizer; put its tokenizer files beside the weights")
    ids = encode(tokenizer, prompt)
    return len(ids) - (1 if ids and ids[-1] in tokenizer.all_special_ids else 0)


def _read_settings(source: str | Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder or a hub id; empty where there is none."""
    settings = _read(source, name)
    if not isinstance(settings, dict | None):
        raise ModelError(f"{source}/{name} is no JSON object; give an undamaged folder, or {_REPAIR}")
    return settings or {}


def _read(source: str | Path, name: str) -> Any:
    """A JSON file of a folder or a hub id; None where there is none."""
    path = _find(source, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); give an undamaged folder") from None


def _find(source: str | Path, name: str) -> Path | None:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from transformers.utils import cached_file

    path = cached_file(
        str(source), name, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
    )  # fmt: skip
    return None if path is None else Path(path)
