"""A finished search as what MLflow is given: the search's run, a run per candidate, the winner for the registry."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latency_models.footprint import count_cached_bytes_per_token
from nas.pipeline.delivery import Delivery
from nas.report import REPORT
from nas.results.result import Result
from nas.search import Candidate
from nas.tracking import CandidateRun, Layout, SearchRun, Winner
from nas.tracking.record import FEASIBLE
from nas.tracking.registry import build_former_name, build_model_name
from search_spaces.architecture import Architecture
from search_spaces.servable import Servable

_FILES = ("redundancy.png", "redundancy.json", "pareto.png", "pareto.html", "candidates.json", REPORT)


def build_search_run(result: Result, delivery: Delivery) -> SearchRun:
    """What of a delivered search is logged.

    The search's run has the winner's numbers under the keys that every candidate has them under, so that the two can
    be compared in one table; what only the search has (seconds, evaluations, the test split) are tags.
    """
    outcome, out = delivery.outcome, delivery.context.request.out
    front = {c.architecture for c in outcome.pareto}
    asked = {"budget_ms": round(delivery.certificate.budget_ms, 4), "percentile": result.percentile,
             "workload": result.workload, "seed": delivery.context.request.seed, "trials": outcome.trials}  # fmt: skip

    def build(candidate: Candidate, name: str) -> CandidateRun:
        return _build_candidate_run(delivery, candidate, name, asked, front)

    curves = {} if delivery.healed is None else delivery.healed.curves
    named = [*((f"trial {c.trial:03d} · {c.origin}", c) for c in outcome.candidates), ("winner", outcome.winner)]
    runs = [build(candidate, f"baseline {name}") for name, candidate in outcome.baselines.items()]
    runs += [replace(build(each, name), curves=curves.get(each.architecture, {})) for name, each in named]
    runs = _select_comparable(runs)
    winner = runs[-1]
    return SearchRun(
        result.model["id"], result.target["name"], delivery.context.request.budget.text, _write_note(result),
        winner.params,
        {**winner.metrics, FEASIBLE: float(winner.feasible)}, runs, [out / name for name in _FILES],
        {"winner": delivery.winner_folder}, delivery.data, _describe_winner(result, delivery),
        _describe_search(result, delivery),
        _build_layout(result), curves.get(outcome.winner.architecture, {}),
    )  # fmt: skip


def _write_note(result: Result) -> str:
    """The description of the search's run, Markdown."""
    winner = result.winner
    return (
        f"**{result.model['id']}** on **{result.target['name']}** ({result.target['label']}), `{result.workload}`, "
        f"budget {result.budget_ms:.2f} ms (p{result.percentile}).\n\nWinner: {winner.quality.metric} "
        f"{winner.quality.value:.4f} on the test split, {winner.predicted_ms:.2f} ms. {result.verdict}.\n\n"
        f"`{winner.architecture.words}`\n\nMetrics are the winner's on the validation split, as its candidates' are."
    )


def _describe_search(result: Result, delivery: Delivery) -> dict[str, str]:
    """What is known of the search as a whole, and of no candidate."""
    quality = result.winner.quality
    tested = {quality.metric: quality.value, **quality.others}
    return {
        "nas.search.seconds": f"{delivery.outcome.seconds:.1f}",
        "nas.search.evaluations": str(delivery.evaluations),
        "nas.verdict": result.verdict,
        **{f"nas.test.{name}": f"{value:.6g}" for name, value in tested.items()},
    }


def _build_layout(result: Result) -> Layout:
    """The table of candidates: the least loss first, with what a person compares them by.

    Not by the metric: one that stopped early has it of fewer items, which may be easier ones.
    """
    quality, percentile = result.winner.quality, result.percentile
    judged = ("loss", quality.metric, *quality.others, "items")
    return Layout("loss", False, (*judged, f"latency.p{percentile}_ms", FEASIBLE, "parameters", "memory_mib"))


def _select_comparable(runs: Sequence[CandidateRun]) -> list[CandidateRun]:
    """The same with the metrics that all of them have: one that some lack is NaN wherever runs are compared.

    A rank correlation, for example, is not known of a candidate that was judged in several steps.
    """
    shared = set.intersection(*(set(run.metrics) for run in runs))
    return [replace(run, metrics={key: run.metrics[key] for key in run.metrics if key in shared}) for run in runs]


def _describe_winner(result: Result, delivery: Delivery) -> Winner:
    """Of a target that is not at hand the prediction has to do; what was measured above its budget is no champion."""
    winner, certificate, parent = result.winner, delivery.certificate, delivery.context.parent
    predicted = not certificate.on_target and winner.predicted_ms <= delivery.certificate.budget_ms
    test = delivery.data.get("test", "")
    named = (
        [
            parent.id if parent.folder is None else Path(parent.id).name, result.target["name"], result.workload,
            _describe_bounds(delivery, result.percentile),
        ],
        [parent.digest, test, winner.quality.metric],
    )  # fmt: skip
    tags = {
        "nas.metric": winner.quality.metric, "nas.parent_hash": parent.digest, "nas.data.test": test,
        "nas.arch_hash": winner.architecture.digest, "nas.verdict": result.verdict,
    }  # fmt: skip
    ms = winner.predicted_ms if winner.measured_ms is None else winner.measured_ms
    return Winner(
        build_model_name(*named), winner.quality.loss, ms, certificate.certified, certificate.certified or predicted,
        tags,
        build_former_name(*named),
    )  # fmt: skip


def _describe_bounds(delivery: Delivery, percentile: int) -> str:
    """The budget with every other bound that was asked for: winners under other bounds are not compared."""
    request = delivery.context.request
    limits = (request.max_parameters, request.max_bytes, request.max_cache)
    others = [each.text for each in limits if each is not None]
    others += [str(request.servable)] if request.servable is not Servable.ANY else []
    return "-".join([request.budget.text, f"p{percentile}", *others])


def _build_candidate_run(
    delivery: Delivery, candidate: Candidate, name: str, asked: dict[str, Any], front: set[Architecture]
) -> CandidateRun:
    """A candidate; its latencies are measured ones where it was measured on the target, else predicted."""
    architecture, depth = candidate.architecture, delivery.context.parent.anatomy.depth
    parts = delivery.context.parent.anatomy.parts
    kept = {f"n_{kind}": sum(architecture.runs(layer, kind) for layer in range(depth)) for kind in parts}
    quality, parameters = candidate.quality, delivery.prune(architecture).num_parameters()
    metrics = {
        quality.metric: quality.value,
        **quality.others,
        "loss": quality.loss,
        "items": float(quality.items),
        **_collect_latencies(delivery, architecture),
        "parameters": float(parameters),
        **_collect_memory(delivery, architecture, parameters),
    }
    params = {
        **asked,
        **kept,
        "n_blocks_removed": len(architecture.list_removed_blocks()),
        "tokens": str(architecture.tokens) or "all",
    }
    return CandidateRun(
        name, candidate.origin, architecture.words, architecture.digest, architecture.to_json(), params, metrics,
        delivery.predict_ms(architecture) <= delivery.scale_budget_ms, architecture in front,
    )  # fmt: skip


def _collect_latencies(delivery: Delivery, architecture: Architecture) -> dict[str, float]:
    """ms at the percentiles that are always shown and at the one that was asked for; whether they were measured."""
    percentiles = sorted({50, 90, delivery.context.request.percentile})
    predictions = {percentile: delivery.latency.predict(architecture, percentile) for percentile in percentiles}
    measured = {"latency.measured": float(predictions[50].exact)}
    return {f"latency.p{percentile}_ms": each.ms for percentile, each in predictions.items()} | measured


def _collect_memory(delivery: Delivery, architecture: Architecture, parameters: int) -> dict[str, float]:
    """What a model holds and moves on the target; joules where the profile of the target has them."""
    target = delivery.context.target
    cached = count_cached_bytes_per_token(delivery.context.parent.shape, architecture, target.precision)
    joules = delivery.predict_joules(architecture)
    return {
        "weights_mib": parameters * target.bytes_per_element / 2**20,
        "memory_mib": delivery.compute_memory(architecture).total / 2**20,
        "kv_bytes_per_token": float(cached),
        **({} if joules is None else {"energy_j": joules}),
    }
