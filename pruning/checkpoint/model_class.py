"""Which class a checkpoint is of: the one it names, or where it names none, the one that its weights fit."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from pruning.checkpoint.weight_files import Header
from search_spaces.errors import ModelError

# What can be judged, so what is looked for; the model without a head is the last.
_HEADS = (
    "CausalLM",
    "ImageTextToText",
    "Seq2SeqLM",
    "SpeechSeq2Seq",
    "MaskedLM",
    "SequenceClassification",
    "TokenClassification",
    "ImageClassification",
)
_AUTO = (*(f"AutoModelFor{head}" for head in _HEADS), "AutoModel")
TOWERS = ("text", "image")  # of a dual encoder, by the names of what they give
_ABSTRACT = "PreTrainedModel"
_NO_CLASS = "so which head it has is not known"


def find_class(source: str | Path, config: Any, headers: dict[str, Header], trust_remote_code: bool) -> Any:
    """The class to load a checkpoint with.

    Args:
        source: for messages.
        config: of the checkpoint.
        headers: what its weight files say they hold.
        trust_remote_code: whether a class of the checkpoint's own may be taken.

    Raises:
        ModelError: it names no class, and its weights fit none or several.
    """
    listed = getattr(config, "architectures", None)
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if trust_remote_code and getattr(config, "auto_map", None):
        return _find_own_class(config.auto_map, names)
    model_class = next((known for name in names if (known := _find_known(name)) is not None), None)
    return model_class or _find_fitting_class(source, config, headers)


def _find_known(name: str) -> Any | None:
    model_class = getattr(transformers, name, None)
    return (
        model_class if isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel) else None
    )


def _find_own_class(auto_map: dict[str, Any], names: list[str]) -> Any:
    """The auto class under which the code of a checkpoint has the class that its config names."""
    autos = [auto for auto in auto_map if auto in _AUTO or auto.startswith("AutoModel")]
    named = (auto for auto in autos if str(auto_map[auto]).rpartition(".")[2] in names)
    first = next(named, None) or next((auto for auto in _AUTO if auto in autos), "AutoModel")
    return getattr(transformers, first, transformers.AutoModel)


def _find_fitting_class(source: str | Path, config: Any, headers: dict[str, Header]) -> Any:
    """The class that needs no weight the files lack and leaves the fewest of theirs unused.

    Several may: a decoder's head is often its embedding again. Then the names decide, since a class with a head
    writes those of the model without one under a prefix.
    """
    weights = _make_weightless(headers)
    unused = {
        each: left for each in _list_candidates(config) if (left := _count_unused(each, config, weights)) is not None
    }
    if not unused:
        raise ModelError(
            f"{source} names no architectures in its config.json, {_NO_CLASS}, and its weights fit none of this "
            f'family; add the class, for example "architectures": ["{type(config).__name__.removesuffix("Config")}'
            'ForCausalLM"]'
        )
    fitting = [each for each, left in unused.items() if left == min(unused.values())]
    prefixed = [each for each in fitting if any(name.startswith(f"{each.base_model_prefix}.") for name in headers)]
    fitting = [each for each in prefixed if each not in _list_classes("AutoModel", config)] or fitting
    if len(fitting) > 1:
        fit = " and ".join(each.__name__ for each in fitting)
        raise ModelError(
            f"{source} names no architectures in its config.json, {_NO_CLASS}: its weights fit {fit}; add "
            f'"architectures": ["{fitting[0].__name__}"] or another of them'
        )
    return fitting[0]


def is_dual_encoder(model_class: Any) -> bool:
    """Whether a class has a tower for texts and one for images that meet in what they give, as CLIP and SigLIP."""
    return all(hasattr(model_class, f"get_{tower}_features") for tower in TOWERS)


def find_tower_class(source: str | Path, dual: Any, config: Any, tower: str, headers: dict[str, Header]) -> Any:
    """The class of one tower of a dual encoder, with the projection behind it where the family has such a class.

    Of the classes of the family that are built from the tower's config it is the one that uses most of the weights.

    Args:
        source: for messages.
        dual: the class of the whole model.
        config: of the tower.
        tower: what it reads, for messages.
        headers: what the weight files say they hold.

    Raises:
        ModelError: there is none that the weights fit.
    """
    weights = _make_weightless(headers)
    known = [each for each in map(_find_known, vars(sys.modules[dual.__module__])) if each is not None]
    classes = [each for each in known if each.config_class is type(config) and not each.__name__.endswith(_ABSTRACT)]
    unused = {each: n for each in classes if (n := _count_unused(each, config, weights)) is not None}
    if not unused:
        raise ModelError(
            f"{source}: looked for a class of the {tower} tower of a {dual.__name__} that its weights fit, and found "
            "none; save the tower as a model of its own and give that"
        )
    return min(unused, key=lambda each: unused[each])


def _list_candidates(config: Any) -> Iterator[Any]:
    """The classes of a family; an encoder that may also be built as a decoder is what its config says."""
    known = {auto: _list_classes(auto, config) for auto in _AUTO}
    if known["AutoModelForCausalLM"] and known["AutoModelForMaskedLM"]:
        known.pop("AutoModelForMaskedLM" if getattr(config, "is_decoder", False) else "AutoModelForCausalLM")
    yield from dict.fromkeys(each for several in known.values() for each in several)


def _list_classes(auto: str, config: Any) -> tuple[Any, ...]:
    """The classes that an auto class knows for a config."""
    classes = getattr(transformers, auto)._model_mapping.get(type(config), ())
    listed = classes if isinstance(classes, (tuple, list)) else (classes,)
    return tuple(each for each in listed if issubclass(each, transformers.PreTrainedModel))


def _make_weightless(headers: dict[str, Header]) -> dict[str, torch.Tensor]:
    """Tensors of the forms that weight files hold, which take no memory."""
    return {name: torch.zeros(()).expand(header.shape) for name, header in headers.items()}


def _count_unused(candidate: Any, config: Any, weights: dict[str, torch.Tensor]) -> int | None:
    """How many weights a class has no use for; None where it needs others, or cannot be built."""
    try:
        _, info = candidate.from_pretrained(
            None, config=config, state_dict=dict(weights), dtype=torch.float32, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError):
        return None
    return None if info["missing_keys"] or info["mismatched_keys"] else len(info["unexpected_keys"])
