"""Positions: how many a model has, and at which lengths they change.

Rotary frequencies of the types `longrope` and `dynamic` depend on the length; a window ends what a token sees; a
learned table ends.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pruning.anatomy.language_model import find_language_config
from pruning.anatomy.part import PIXELS, Part, get_main_input, get_part

_WINDOWS = ("sliding_window", "local_attention", "attention_chunk_size", "window_size")
_MORE_ROWS = 2  # of a learned table than positions, where it counts from two on


def find_rotaries_by_length(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose rotary frequencies depend on the length."""
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        named = types.values() if isinstance(types, Mapping) else (types,)
        if any(depends_on_length(name) for name in named):
            yield module


def depends_on_length(rope_type: Any) -> bool:
    """Whether the frequencies of a rotary type are others for longer sequences."""
    return isinstance(rope_type, str) and ("dynamic" in rope_type or rope_type == "longrope")


@torch.no_grad()
def forget_lengths(model: nn.Module) -> None:
    """Undo what longer sequences left behind: dynamic frequencies stay those of the longest one until a short one."""
    for module in find_rotaries_by_length(model):
        states, first = torch.zeros(1), torch.zeros(1, 1, dtype=torch.long)
        types = module.rope_type
        for more in [(name,) for name in types] if isinstance(types, Mapping) else [()]:
            module(states, first, *more)


# What configs call the positions of a stack where the two have unlike numbers.
_POSITIONS_OF_STACKS: dict[Part | None, tuple[str, ...]] = {
    Part.ENCODER: ("max_source_positions",),
    Part.DECODER: ("max_target_positions",),
}


def count_trained_positions(model: Any) -> int | None:
    """How many positions the config says the model has; None where it says nothing."""
    config = find_language_config(model)
    names = ("max_position_embeddings", *_POSITIONS_OF_STACKS.get(get_part(model), ()))
    count = next((size for name in names if (size := getattr(config, name, None)) is not None), None)
    return count if isinstance(count, int) and count > 0 else None


def find_longest_sequence(model: Any) -> int | None:
    """How many tokens a table of learned positions has rows for; None where there is no such table."""
    longest = count_trained_positions(model)
    if get_main_input(model) == PIXELS or longest is None:
        return None
    words = model.get_input_embeddings()
    for table in model.modules():
        if (
            isinstance(table, nn.Embedding)
            and table is not words
            and longest <= table.num_embeddings <= longest + _MORE_ROWS
        ):
            # RoBERTa counts from the row behind that of the padding on.
            skipped = 0 if table.padding_idx is None else table.padding_idx + 1
            return longest - skipped
    return None


def find_lengths_of_change(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(rotary, windows): lengths beyond which a token's position, or what it sees, is made in another way."""
    config = find_language_config(model)
    rotary: set[int] = set()
    for settings in _list_rope_settings(config):
        rotary.add(settings.get("original_max_position_embeddings") or 0)
        if depends_on_length(settings.get("rope_type")):
            rotary.add(count_trained_positions(model) or 0)
    windows = {getattr(config, name, None) for name in _WINDOWS}
    longest = count_trained_positions(model) or max(windows, key=lambda w: w if isinstance(w, int) else 0) or 0
    seen = {window for window in windows if isinstance(window, int) and 0 < window <= longest}
    return tuple(sorted(rotary - {0})), tuple(sorted(seen))


def _list_rope_settings(config: Any) -> list[Mapping[str, Any]]:
    """The rotary settings of a config: its only ones, or those of every type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    return nested or [parameters]
