"""A finished search as what MLflow is given: the search's run, a run per candidate, the winner for the registry."""

from pathlib import Path
from typing import TYPE_CHECKING

from nas.report import REPORT
from nas.result import Result
from nas.search import Candidate
from nas.tracking import CandidateRun, SearchRun, Winner
from nas.tracking.registry import model_name
from search_spaces.architecture import Architecture
from search_spaces.servable import Servable
from search_spaces.unit import Kind, Unit

if TYPE_CHECKING:
    from nas.delivery import Delivery

_FILES = ("redundancy.png", "redundancy.json", "pareto.png", "pareto.html", "candidates.json", REPORT)


def search_run(result: Result, delivery: "Delivery") -> SearchRun:
    """What of a delivered search is logged."""
    outcome, out = delivery.outcome, delivery.request.out
    winner, budget = result.winner, f"{delivery.budget_ms:.2f}ms p{result.percentile}"
    note = (
        f"**{result.model['id']}** on **{result.target['name']}** ({result.target['label']}), `{result.workload}`, "
        f"budget {budget}.\n\nWinner: {winner.quality.metric} {winner.quality.value:.4f} on the test split, "
        f"{winner.predicted_ms:.2f} ms. {result.verdict}.\n\n`{winner.architecture.words}`"
    )
    front = {c.architecture for c in outcome.pareto}
    runs = [_candidate_run(delivery, c, f"baseline {name}", front) for name, c in outcome.baselines.items()]
    runs += [_candidate_run(delivery, c, f"trial {c.trial:03d} · {c.origin}", front) for c in outcome.candidates]
    runs.append(_candidate_run(delivery, outcome.winner, "winner", front))
    params = {"budget_ms": round(delivery.budget_ms, 4), "percentile": result.percentile, "workload": result.workload,
              "seed": delivery.request.seed, "trials": outcome.trials}  # fmt: skip
    metrics = {
        f"winner.{result.winner.quality.metric}": winner.quality.value,
        "winner.latency_ms": winner.predicted_ms,
        "winner.params_m": result.winner_parameters / 1e6,
        "search.seconds": outcome.seconds,
        "search.evaluations": float(delivery.evaluations),
    }
    return SearchRun(
        result.model["id"], result.target["name"], delivery.request.budget.text, note, params, metrics, runs,
        [out / name for name in _FILES], {"winner": delivery.winner_folder}, delivery.data, _winner(result, delivery),
    )  # fmt: skip


def _winner(result: Result, delivery: "Delivery") -> Winner:
    """Of a target that is not at hand the prediction has to do; what was measured above its budget is no champion."""
    winner, certificate, subject = result.winner, delivery.certificate, delivery.subject
    predicted = not certificate.on_target and winner.predicted_ms <= delivery.budget_ms
    test = delivery.data.get("test", "")
    name = model_name(
        [
            subject.id if subject.folder is None else Path(subject.id).name, result.target["name"], result.workload,
            _asked(delivery, result.percentile),
        ],
        [subject.digest, test, winner.quality.metric],
    )  # fmt: skip
    tags = {
        "nas.metric": winner.quality.metric, "nas.parent_hash": subject.digest, "nas.data.test": test,
        "nas.arch_hash": winner.architecture.digest, "nas.verdict": result.verdict,
    }  # fmt: skip
    ms = winner.predicted_ms if winner.measured_ms is None else winner.measured_ms
    return Winner(name, winner.quality.loss, ms, certificate.certified, certificate.certified or predicted, tags)


def _asked(delivery: "Delivery", percentile: int) -> str:
    """The budget with every other bound that was asked for: winners under other bounds are not compared."""
    request = delivery.request
    others = [request.max_parameters.text] if request.max_parameters else []
    others += [str(request.servable)] if request.servable is not Servable.ANY else []
    return "-".join([request.budget.text, f"p{percentile}", *others])


def _candidate_run(delivery: "Delivery", candidate: Candidate, name: str, front: set[Architecture]) -> CandidateRun:
    architecture, latency, depth = candidate.architecture, delivery.latency, delivery.subject.anatomy.depth
    parameters = delivery.pruned(architecture).num_parameters()
    kept = {kind: sum(architecture.keeps(layer, kind) for layer in range(depth)) for kind in (Kind.ATTENTION, Kind.MLP)}
    shape, held = delivery.subject.shape, delivery.memory(architecture)
    attentions = [layer for layer in range(depth) if architecture.keeps(layer, Kind.ATTENTION)]
    cached = sum(shape.block(layer).attention.cached for layer in attentions) * delivery.target.bytes_per_element
    joules = delivery.joules(architecture)
    at50, at90 = latency.predict(architecture, 50), latency.predict(architecture, 90)
    metrics = {
        "latency_ms.predicted_p50": at50.ms,
        "latency_ms.predicted_p90": at90.ms,
        **({"latency_ms.p50": at50.ms, "latency_ms.p90": at90.ms} if at50.exact else {}),
        "quality.loss": candidate.quality.loss,
        f"quality.{candidate.quality.metric}": candidate.quality.value,
        **{f"quality.{key}": value for key, value in candidate.quality.others.items()},
        "params_m": parameters / 1e6,
        "weights_mib": parameters * delivery.target.bytes_per_element / 2**20,
        "kv_bytes_per_token": float(cached if shape.causal else 0),
        "memory_mib": held.total / 2**20,
        **({} if joules is None else {"energy_j": joules}),
    }
    params = {
        "n_attention": kept[Kind.ATTENTION],
        "n_mlp": kept[Kind.MLP],
        "n_blocks_removed": sum(architecture.drops(Unit(layer, Kind.BLOCK)) for layer in range(depth)),
        "tokens": str(architecture.tokens) or "all",
    }
    return CandidateRun(
        name, candidate.origin, architecture.words, architecture.digest, architecture.to_json(), params, metrics,
        candidate.predicted_ms <= delivery.planned_ms, architecture in front,
    )  # fmt: skip
