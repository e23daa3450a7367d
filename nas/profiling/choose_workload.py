"""The workload of a search: the one that was asked for, or one that fits the model and the target."""

import sys
from dataclasses import replace
from typing import Any

from latency_models.targets import Target
from latency_models.workload import Phase, Workload
from nas.export.cached_export import read_cache_layers
from nas.parent.parent import ParentModel
from pruning.anatomy.part import PIXELS, get_main_input
from pruning.anatomy.positions import count_trained_positions, find_longest_sequence
from search_spaces.errors import BadWorkload, ExportError


def choose_default_workload(parent: ParentModel, target: Target) -> Workload:
    """The workload of a target when none was asked for: small where it is measured on a CPU, and one that fits."""
    return fit_workload(parent.model, parent.shape.choose_default_workload(small=target.is_host))


def fit_workload(model: Any, workload: Workload) -> Workload:
    """The workload, no longer than the model has positions for."""
    counts = [count for count in (find_longest_sequence(model), count_trained_positions(model)) if count is not None]
    if workload.past + workload.sequence <= min(counts, default=sys.maxsize) or get_main_input(model) == PIXELS:
        return workload
    if workload.phase is Phase.DECODE:
        return replace(workload, past=max(1, min(counts) - 1))
    return replace(workload, sequence=min(counts))


def choose_workload(parent: ParentModel, target: Target, asked: Workload | None) -> Workload:
    """The workload that was asked for, or the target's usual one, if the model can run it.

    Raises:
        BadWorkload: an image model does not make that many tokens, or a model has no positions for so many, or no
            such phase.
    """
    workload = asked or choose_default_workload(parent, target)
    tokens = parent.shape.tokens
    if tokens is not None and workload.phase is Phase.FORWARD and workload.sequence != tokens:
        raise BadWorkload(f"workload {workload}: {parent.id} makes {tokens} tokens of an image; write seq={tokens}")
    max_length, length = find_longest_sequence(parent.model), workload.past + workload.sequence
    if max_length is not None and length > max_length:
        raise BadWorkload(
            f"workload {workload}: it takes {length} positions and {parent.id} has {max_length}; "
            f"write for example {fit_workload(parent.model, workload)}"
        )
    if workload.phase is not Phase.FORWARD:
        try:
            read_cache_layers(parent.model, workload.phase)
        except ExportError as error:
            raise BadWorkload(f"workload {workload}: {error}") from error
    return workload
