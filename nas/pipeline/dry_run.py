"""What a search would do (`--dry-run`): with the model and the data as it will have them, and nothing measured."""

from dataclasses import dataclass
from math import comb
from typing import Any

from latency_models.footprint import compute_memory
from latency_models.targets import Target, find_target
from latency_models.workload import Workload
from nas.data.dataset import Dataset
from nas.data.documents import SPLITS
from nas.export.parent_export import ParentExport
from nas.parent.parent import ParentModel, load_parent_model
from nas.parent.running_cost import check_memory, count_bytes, estimate_peak_bytes, measure_item_seconds
from nas.pipeline.evaluator import list_rungs
from nas.pipeline.prepare import resolve_space, say_what_fits
from nas.profiling.latency_model import load_latency_model
from nas.progress import Progress
from nas.request.search_request import SearchRequest
from nas.search.greedy_removal import WIDTH
from nas.tokens.describe import describe_schedule
from nas.tokens.space import build_evaluator_of_space, count_droppable
from pruning.inference.residency import is_streamed
from search_spaces.architecture import Architecture
from search_spaces.space import Space

_SHARED = 0.5  # of an evaluation is computed, as candidates share the states of blocks; docs/search.md
_MINUTE = 60.0


@dataclass(frozen=True)
class Plan:
    """A search that was not begun: `facts` by name, of what there is something to say about."""

    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The document that is printed."""
        return {"schema_version": 1, **self.facts}

    @property
    def words(self) -> str:
        """A line for each fact."""
        return "\n".join(
            f"{name.replace('_', ' '):<18} {_format_fact(name, value)}" for name, value in self.facts.items()
        )


def plan(request: SearchRequest, progress: Progress) -> Plan:
    """Load the parent and its data, look at one small batch, and say what the search would do.

    Raises:
        NasError: any of its kinds, for what the user gave.
    """
    target = find_target(request.target)
    with progress.open_stage("loading the model"):
        parent = load_parent_model(
            request.model, request.data, request.trust_remote_code, request.device, request.stream, request.part
        )
    check_memory(parent, request.prefix_cache_bytes)
    workload, space = resolve_space(request, parent, target)
    say_what_fits(request, parent, target, workload, progress)
    with progress.open_stage("reading the data"):
        dataset = build_evaluator_of_space(parent, workload, request.tokens, space).dataset
    with progress.open_stage("timing the parent on a few items"):
        seconds = measure_item_seconds(parent, dataset.calibration)
    facts = {
        **_describe_request(request, parent, target, workload),
        **_predict(request, parent, target, workload, space, progress),
        "units": len(space.choices),
        "tokens": _describe_tokens(request, parent, workload, space),
        "architectures": 2 ** len(space.structure) * _count_schedules(space),
        "items": {name: len(dataset.get_split(name)) for name in SPLITS},
        "tokens_per_item": _count_tokens_per_item(dataset),
        "judging_seconds": round(seconds * _count_evaluated_items(request, space, dataset)),
        "memory_mib": {
            name: round(size / 2**20) for name, size in _estimate_memory(request, parent, target, workload).items()
        },
        "out": str(request.out),
    }
    return Plan({name: value for name, value in facts.items() if value not in (None, "")})


def _describe_request(
    request: SearchRequest, parent: ParentModel, target: Target, workload: Workload
) -> dict[str, Any]:
    return {
        "model": parent.id,
        "parameters": parent.model.num_parameters(),
        "layout": str(parent.anatomy.layout),
        "target": target.name,
        "target_note": target.note,
        "workload": str(workload),
        "budget": request.budget.text,
        "max_parameters": request.max_parameters and request.max_parameters.text,
        "max_bytes": request.max_bytes and request.max_bytes.text,
        "max_cache": request.max_cache and request.max_cache.text,
        "percentile": request.percentile,
        "method": request.method,
        "servable": str(request.servable),
        "trials": request.trials,
        "batch": request.batch,
        "executor": request.executor,
        "device": str(parent.device),
        "streamed": is_streamed(parent.model),
        "heal_minutes": request.heal_s and round(request.heal_s / 60, 2),
    }


def _predict(
    request: SearchRequest, parent: ParentModel, target: Target, workload: Workload, space: Space, progress: Progress
) -> dict[str, Any]:
    """The parent's latency and the budget that follows from it; this machine is measured when the search begins."""
    if target.is_host:
        return {"latency": "measured on this machine when the search begins"}
    export = ParentExport(parent, progress, workload.phase)
    latency = load_latency_model(parent, target, workload, export, progress, space)
    ms = latency.predict(space.parent, request.percentile).ms
    return {"parent_ms": round(ms, 3), "budget_ms": round(request.budget.resolve(ms), 3), "latency": latency.label}


def _count_evaluated_items(request: SearchRequest, space: Space, dataset: Dataset) -> float:
    """Items that are computed, about: of parts alone, greedy removal, all trials, the last few, the test."""
    few, *_, every = list_rungs(len(dataset.validation))
    usual = list_rungs(len(dataset.validation))[-2:][0]
    units = len(space.choices)
    down = units / 2 * max(WIDTH[1], WIDTH[0] * units)
    judged = few * (units + down) + usual * request.trials + 4 * every + 6 * len(dataset.test)
    return _SHARED * judged + len(dataset.calibration)


def _estimate_memory(request: SearchRequest, parent: ParentModel, target: Target, workload: Workload) -> dict[str, int]:
    """Bytes by arithmetic: here what is loaded and the most that states may take, and the parent on the target."""
    states = request.prefix_cache_bytes
    on_target = compute_memory(parent.shape, Architecture.parent(parent.anatomy.depth), workload, target.precision)
    return {
        "weights_here": count_bytes(parent.model), "states_here_at_most": states,
        "peak_here_about": estimate_peak_bytes(parent, states), "parent_on_target": on_target.total,
    }  # fmt: skip


def _count_tokens_per_item(dataset: Dataset) -> int | None:
    """Of the validation split on average, without padding; None for images."""
    inputs = dataset.validation.inputs
    if "attention_mask" in inputs:
        return round(float(inputs["attention_mask"].sum(-1).float().mean()))
    return int(inputs["input_ids"].shape[1]) if "input_ids" in inputs else None


def _describe_tokens(request: SearchRequest, parent: ParentModel, workload: Workload, space: Space) -> str:
    if space.fixed is not None:
        return describe_schedule(space.fixed, *count_droppable(parent, workload))
    if not space.steps:
        return request.tokens
    blocks = len({step.layer for step in space.steps})
    ratios = sorted({stage.ratio for step in space.steps for stage in space.decode([step]).tokens.stages})
    return f"{request.tokens}: stages before {blocks} blocks that keep {', '.join(f'{r:g}' for r in ratios)}"


def _count_schedules(space: Space) -> int:
    """How many there are: rows of shares, one a place, that never rise."""
    blocks, ratios = len({step.layer for step in space.steps}), len({step.level for step in space.steps})
    return comb(blocks + ratios, ratios)


def _format_fact(name: str, value: Any) -> str:
    """A fact as a person reads it."""
    if name == "judging_seconds":
        about = f"{value} s" if value < _MINUTE else f"{value / _MINUTE:.0f} min"
        return f"about {about} to evaluate candidates here, plus exporting and measuring"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {each}" for key, each in value.items())
    return str(value)
