"""Models on disk: safetensors only, no code from a checkpoint unless allowed, pruned models exactly as they were.

A result that lost whole blocks only is an ordinary Hugging Face folder where a config can describe it. Any other is
marked by the model type `nas_<family>`, so that the plain classes refuse it instead of filling the dropped parts with
random weights; `load` rebuilds it. What is written is read back and compared before `save` returns.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from pruning.anatomy.part import Part, select_part
from pruning.anatomy.probe import make_probe_inputs
from pruning.checkpoint.completeness import capture_report, check_complete, find_reported
from pruning.checkpoint.config import check_safe, get_first_line, read_config, read_document
from pruning.checkpoint.equivalence import check_same
from pruning.checkpoint.hub import fetch
from pruning.checkpoint.model_class import find_class, find_tower_class, is_dual_encoder
from pruning.checkpoint.narrow_weights import holds_plan, load_as_planned, plan_dtypes
from pruning.checkpoint.quantised import find_quantisation
from pruning.checkpoint.rebuilding import rebuild
from pruning.checkpoint.remote_code import prevent_asking
from pruning.checkpoint.sentence_embedding import attach
from pruning.checkpoint.sentence_files import list_sentence_files, read_sentence_embedding, settle_unused
from pruning.checkpoint.stored_precision import remember_precision
from pruning.checkpoint.weight_files import find_weights, read_headers, read_stored_dtypes
from pruning.checkpoint.writing import write
from pruning.inference.light_copy import copy_lightly
from pruning.inference.residency import streaming
from pruning.inference.widening import is_widened, widen
from pruning.surgery.prune import RECORD
from search_spaces.errors import ModelError, NasError, UsageError

_COMPANIONS = (
    "tokenizer*",
    "*_tokens*.json",
    "vocab*",
    "merges.txt",
    "*.model",  # SentencePiece
    "chat_template*",
    "*processor_config.json",
)
_CONFIGS = {Part.TEXT: "text_config", Part.VISION: "vision_config"}  # of the towers of a dual encoder


def load_parent(
    source: str | Path, dtype: torch.dtype | None = None, trust_remote_code: bool = False, part: str | None = None
) -> Any:
    """The model in a Hugging Face folder or of a hub id, in eval mode.

    Of a folder of Sentence Transformers it is the model without a head, as that package takes it, and carries how texts
    are embedded with it.

    Args:
        source: a folder, or `organisation/name`. What looks like a path is never looked up at a hub.
        dtype: the weights are converted to it. None computes in float32, with weights in half precision where that
            is what is stored (`pruning.inference.widening`), and keeps in mind what is stored, so that what is cut
            from the model is saved as its parent was. The weights then are the files themselves, mapped into memory.
        trust_remote_code: run the Python code that the checkpoint carries.
        part: the stack that is pruned, of a model that has several (`select_part`); of a dual encoder the tower that
            is loaded, without the other one.

    Raises:
        UsageError: a part that the model does not have.
        ModelError: nothing there, damaged, quantised, or its files and its config do not belong together.
        UnsafeCheckpoint: pickled weights only, weights from elsewhere, or code that was not allowed.
    """
    prevent_asking()
    local = _find_local_folder(source)
    folder = local or fetch(str(source), trust_remote_code)
    document = read_document(folder)
    if RECORD in document:
        raise ModelError(f"{source} is pruned already; load it with nas.load, or give its parent")
    _refuse_adapter(source, folder)
    check_safe(source, document, trust_remote_code)
    headers = read_headers(find_weights(folder, document.get("transformers_weights")))
    quantised = find_quantisation(folder, document, headers)
    if quantised is not None:
        raise ModelError(
            f"{source} is quantised ({quantised}); parts are cut from plain weights, so give the checkpoint that it "
            "was made from"
        )
    config = read_config(source, folder, document, trust_remote_code)
    embedding = read_sentence_embedding(local or source, trust_remote_code)
    loader = find_class(source, config, headers, trust_remote_code) if embedding is None else AutoModel
    one_tower = is_dual_encoder(loader) and part is not None
    if part is not None and one_tower:
        if part not in _CONFIGS:
            raise UsageError(f"part {part}: {loader.__name__} has the parts text and vision; take one of these")
        config = getattr(config, _CONFIGS[Part(part)])
        loader = find_tower_class(source, loader, config, part, headers)
    options: dict[str, Any] = {"local_files_only": local is not None, "trust_remote_code": trust_remote_code}
    options |= {"config": config, "dtype": dtype or torch.float32}
    plan = plan_dtypes(headers) if dtype is None else {}
    with load_as_planned(plan):
        model, info = _read(source, loader, folder, **options)
    if plan and not (holds_plan(model, plan) and _computes(widen(model))):
        model, info = _read(source, loader, folder, **options)
    if embedding is not None:
        info["missing_keys"] = settle_unused(model, set(info["missing_keys"]))
        attach(model, embedding)
    check_complete(source, model, info, headers)
    select_part(model, None if one_tower else part)
    if dtype is None:
        remember_precision(model, read_stored_dtypes(headers))
    return model.eval()


def load_to_compute(folder: str | Path, trust_remote_code: bool = False) -> Any:
    """As `load`, to be computed with in float32: of a plain folder, narrow weights stay narrow.

    Raises:
        ModelError: as `load`.
    """
    local = _find_local_folder(folder)
    plain = local is not None and not is_pruned(local)
    return load_parent(folder, None, trust_remote_code) if plain else load(folder, torch.float32, trust_remote_code)


def save(model: Any, folder: Path, companions: Path | None = None) -> None:
    """Write a model, pruned or not, in the precision of its parent's files; `load` gives it back exactly.

    Args:
        model: what `prune` returned.
        folder: made if needed.
        companions: a folder whose tokenizer and preprocessor files, and those of Sentence Transformers, are copied
            beside the weights.

    Raises:
        ArchitectureError: the folder would come back as another model.
    """
    write(model, folder)
    own_code = model.is_remote_code()  # which runs already
    try:
        again = load_to_compute(folder, own_code) if is_widened(model) else load(folder, model.dtype, own_code)
        check_same(model, again, folder)
    except NasError:
        (folder / "config.json").unlink()  # nobody is to take what is there for the model
        raise
    if companions is not None:
        copy_companions(companions, folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy the files of tokenizer, preprocessor and Sentence Transformers from one model folder into another."""
    for pattern in _COMPANIONS:
        for companion in source.glob(pattern):
            shutil.copyfile(companion, folder / companion.name)
    for file in list_sentence_files(source):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, folder / file)


def load(folder: str | Path, dtype: torch.dtype | None = None, trust_remote_code: bool = False) -> Any:
    """The model in a folder that `save` wrote, or any other Hugging Face folder; in eval mode.

    Args:
        folder: the result folder's `winner/`, or any model folder.
        dtype: convert the weights; None keeps them as most of them are on disk.
        trust_remote_code: run the Python code that the folder carries.

    Raises:
        ModelError: as `load_parent`.
    """
    prevent_asking()
    local = _find_local_folder(folder)
    if local is None:
        raise ModelError(f"{folder} is no folder; nas.load reads a local folder with config.json and safetensors")
    document = read_document(local)
    check_safe(local, document, trust_remote_code)
    files = find_weights(local, document.get("transformers_weights"))
    stored = dtype or next(iter(read_stored_dtypes(read_headers(files))), torch.float32)
    if RECORD not in document:
        return load_parent(local, stored, trust_remote_code)
    model = rebuild(local, document, files, stored, trust_remote_code)
    attach(model, read_sentence_embedding(local, trust_remote_code))
    return model


def is_pruned(folder: Path) -> bool:
    """Whether a folder holds a pruned model that `load` must rebuild, as the plain classes cannot."""
    return (folder / "config.json").is_file() and RECORD in read_document(folder)


def _read(source: str | Path, loader: Any, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model and the library's account of how its weights fit."""
    with capture_report() as heard:
        try:
            model, info = loader.from_pretrained(
                str(folder), use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except Exception as error:  # a family's own code, with whatever its config asks for
            wrong = find_reported(heard)
            reason = get_first_line(error) if wrong is None else f"{wrong} is not what the model makes of its files"
            raise ModelError(f"{source} cannot be loaded: {reason}; check that the download is complete") from error
    return model, info


@torch.no_grad()
def _computes(model: Any) -> bool:
    """Whether a model runs with narrow weights; not where it takes weights of modules that it does not call."""
    try:
        with streaming(model):
            copy_lightly(model.eval())(**make_probe_inputs(model))
    except Exception:  # a family's own code
        return False
    return True


def _refuse_adapter(source: str | Path, folder: Path) -> None:
    """The library would load the adapter with its base, from wherever the adapter says, or leave it out in silence."""
    if (folder / "adapter_config.json").exists() or (folder / "adapter_model.safetensors").exists():
        raise ModelError(f"{source} holds an adapter (PEFT); merge it into its base model and give the merged model")


def _find_local_folder(source: str | Path) -> Path | None:
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
