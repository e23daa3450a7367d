"""Writing the result folder: the winner's files, the pictures, the report, and the record in MLflow."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latency_models.targets import Target
from latency_models.workload import Phase
from nas.export.exporters import ONNX_RUNTIME, find_exporter
from nas.export.onnx_export import build_file_name
from nas.figures.search import Point, draw_pareto, write_pareto_page
from nas.mlflow_model import write_mlmodel
from nas.pipeline.channel_orders import CHANNELS, describe_orders
from nas.pipeline.delivery import Delivery
from nas.pipeline.held_out import TEST
from nas.pipeline.mlflow_run import build_search_run
from nas.progress import Timed
from nas.quality.comparison import Comparison, compare
from nas.report import CANDIDATES, REPORT, write_report
from nas.report.words import name_loss
from nas.results.certificate import Certificate, compute_sha256
from nas.results.model_card import write_card
from nas.results.result import Entry, Result
from nas.search import Candidate
from nas.tokens.describe import describe_schedule
from nas.tokens.space import count_droppable
from nas.tracking import get_tracking_uri, log_search, remove_password
from pruning.checkpoint import is_pruned, save
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.compensation.candidate_builder import CompensationRecord, get_compensation

COMPENSATION, HEALING = "compensation.json", "healing.json"  # in the winner's folder: how its weights were made


def deliver(delivery: Delivery) -> Result:
    """Write the winner's folder, the profile and the pictures; return the result, not yet logged."""
    folder, outcome = delivery.winner_folder, delivery.outcome
    winner = delivery.winner
    save(winner, folder, companions=delivery.context.parent.files)
    _export(delivery, winner)
    delivery.certificate.save(folder / "certificate.json")
    _write_json(folder / "architecture.json", outcome.winner.architecture.to_json())
    compensation, parent = get_compensation(winner), delivery.context.parent
    orders = describe_orders(parent.model, parent.anatomy, outcome.winner.architecture)
    _write_or_remove(folder / COMPENSATION, None if compensation is None else compensation.to_json())
    _write_or_remove(folder / CHANNELS, orders)
    _write_or_remove(folder / HEALING, None if delivery.healed is None else delivery.healed.summary)
    profile = delivery.latency.profile
    if profile is not None:
        profile.save(delivery.context.request.out / "profile.json")
    result = replace(_build_result(delivery, winner.num_parameters()), **_build_before(delivery, compensation))
    embedding = read_sentence_embedding(winner)
    write_card(result, folder, not is_pruned(folder), "" if embedding is None else embedding.words)
    write_mlmodel(folder)
    _draw_pictures(delivery)
    return result


def _write_or_remove(path: Path, document: dict[str, Any] | None) -> None:
    """Write how the weights were made; where there is nothing to say, what another winner left is removed."""
    path.unlink(missing_ok=True)
    if document is not None:
        _write_json(path, document)


def _build_before(delivery: Delivery, compensation: CompensationRecord | None) -> dict[str, Any]:
    """What the winner would be without its adjustment and its training, on the test split, and how these were done."""
    judged = delivery.held_out[delivery.outcome.winner.architecture.digest]
    if compensation is None:
        return {} if delivery.healed is None else {"as_dropped": judged, "healing": delivery.healed.summary}
    model, evaluator = delivery.prune(delivery.outcome.winner.architecture), delivery.context.cached_evaluator.evaluator
    before = {"as_dropped": evaluator.evaluate(model, TEST), "compensation": compensation.summary}
    if delivery.healed is not None:
        before |= {"compensated": judged, "healing": delivery.healed.summary}
    return before


def _export(delivery: Delivery, winner: Any) -> None:
    """The files to deploy; what the certificate is of stays as it was measured. Generating takes both cached phases."""
    phase, folder = delivery.context.workload.phase, delivery.winner_folder
    wanted = [(each, ONNX_RUNTIME) for each in ((phase,) if phase is Phase.FORWARD else (Phase.PREFILL, Phase.DECODE))]
    own = find_exporter(delivery.context.target.runtime)
    wanted += [] if own == ONNX_RUNTIME else [(phase, own)]
    for each, exporter in wanted:
        path = folder / exporter.name_file(build_file_name(each))
        if not path.exists() or compute_sha256(path) != delivery.certificate.file_sha256:
            delivery.context.export.make_other(each, exporter).write_pruned(winner, path)


def record(result: Result, delivery: Delivery, progress: Timed) -> Result:
    """Write the report, log to MLflow, then write `result.json` with where it was logged and what took how long."""
    out = delivery.context.request.out
    with progress.open_stage("writing the report"):
        replace(result, phases=progress.phases).save(out)
        write_report([out], out / REPORT)
    with progress.open_stage("recording in MLflow"):
        logged = log_search(
            build_search_run(result, delivery), get_tracking_uri(delivery.context.request.tracking_uri, out), out
        )
    result = replace(result, mlflow=logged, phases=progress.phases)
    result.save(out)
    return result


def _write_json(path: Path, document: dict[str, Any]) -> None:
    import json

    path.write_text(json.dumps(document, indent=1) + "\n")


def _build_entry(delivery: Delivery, candidate: Candidate, method: str, measured: float | None = None) -> Entry:
    """With the quality on the test split."""
    quality = delivery.get_tested(candidate)
    return replace(_build_validated_entry(delivery, candidate, measured), method=method, quality=quality)


def _build_validated_entry(delivery: Delivery, candidate: Candidate, measured: float | None = None) -> Entry:
    """With the quality that the search saw, so that the members of a front can be compared with each other."""
    prediction = delivery.latency.predict(candidate.architecture, delivery.context.request.percentile)
    if measured is None and prediction.exact:
        measured = prediction.ms
    interval = (prediction.low_ms, prediction.high_ms)
    return Entry(candidate.architecture, candidate.quality, prediction.ms, interval, candidate.origin, measured)


def _build_result(delivery: Delivery, parameters: int) -> Result:
    request, outcome, certificate = delivery.context.request, delivery.outcome, delivery.certificate
    measured = _read_measured(certificate, request.percentile) if certificate.on_target else (None, None)
    files = {path.name: str(path) for path in sorted(delivery.winner_folder.iterdir()) if path.is_file()}
    return Result(
        model=_describe_model(delivery),
        target=_describe_target(delivery),
        workload=str(delivery.context.workload),
        percentile=request.percentile,
        budget_ms=delivery.certificate.budget_ms,
        parent=_build_entry(delivery, outcome.parent, "parent", measured[1]),
        winner=_build_entry(delivery, outcome.winner, outcome.winner.origin, measured[0]),
        winner_parameters=parameters,
        winner_memory=delivery.compute_memory(outcome.winner.architecture),
        winner_joules=delivery.predict_joules(outcome.winner.architecture),
        certified=certificate.certified,
        verdict=f"{certificate.verdict}: {certificate.reason}",
        host=_compare_on_host(certificate, delivery.context.target),
        files=files,
        pareto=tuple(_build_validated_entry(delivery, candidate) for candidate in outcome.pareto),
        baselines=tuple(_build_entry(delivery, candidate, name) for name, candidate in outcome.baselines.items()),
        comparisons=_build_comparisons(delivery),
        units=delivery.unit_savings,
        finalists=delivery.finalists,
        search={
            "trials": outcome.trials, "evaluations": delivery.evaluations, "seconds": round(outcome.seconds, 1),
            "seed": request.seed, "storage": remove_password(request.storage or "study.db"),
        },
        mlflow={},
        winner_parts=delivery.context.parent.anatomy.count_natures(outcome.winner.architecture),
        resume_command=request.resume_command,
        tokens=_describe_tokens(delivery),
        parent_memory=delivery.compute_memory(outcome.parent.architecture),
        parent_joules=delivery.predict_joules(outcome.parent.architecture),
    )  # fmt: skip


def _describe_model(delivery: Delivery) -> dict[str, Any]:
    parent = delivery.context.parent
    return {
        "id": parent.id, "hash": parent.digest, "family": parent.anatomy.family,
        "parameters": parent.model.num_parameters(), "parts": parent.anatomy.count_natures(), "data": delivery.data,
    }  # fmt: skip


def _describe_target(delivery: Delivery) -> dict[str, Any]:
    target, latency = delivery.context.target, delivery.latency
    return {
        "name": target.name, "runtime": target.runtime, "precision": target.precision,
        "measured": latency.measured, "label": latency.label, "note": target.note,
    }  # fmt: skip


def _describe_tokens(delivery: Delivery) -> str:
    """The winner's schedule in words; empty where it has none."""
    schedule = delivery.outcome.winner.architecture.tokens
    return (
        describe_schedule(schedule, *count_droppable(delivery.context.parent, delivery.context.workload))
        if schedule.stages
        else ""
    )


def _build_comparisons(delivery: Delivery) -> tuple[Comparison, ...]:
    """The winner against the runner-up and every baseline, on the test split."""
    outcome, held_out = delivery.outcome, delivery.held_out
    others = dict(outcome.baselines)
    if len(outcome.ranked) > 1:
        others = {"runner-up": outcome.ranked[1]} | others
    winner = delivery.get_tested(outcome.winner)
    return tuple(
        compare(winner, held_out[candidate.architecture.digest], name)
        for name, candidate in others.items()
        if candidate.architecture != outcome.winner.architecture
    )


def _read_measured(certificate: Certificate, percentile: int) -> tuple[float | None, float | None]:
    pair = (certificate.winner, certificate.parent)
    first, second = (None if m is None else m.compute_percentile(percentile) for m in pair)
    return first, second


def _compare_on_host(certificate: Certificate, target: Target) -> dict[str, float] | None:
    """How the exported files compare on the machine that made them; None where a device measured them instead."""
    elsewhere = certificate.on_target and not target.is_host
    if elsewhere or certificate.winner is None or certificate.parent is None:
        return None
    return {
        "winner_p50_ms": round(certificate.winner.p50, 4),
        "winner_p90_ms": round(certificate.winner.p90, 4),
        "parent_p50_ms": round(certificate.parent.p50, 4),
        "parent_p90_ms": round(certificate.parent.p90, 4),
        "ratio_to_parent": round(certificate.winner.compute_ratio(), 4),
    }


def _draw_pictures(delivery: Delivery) -> None:
    outcome, p = delivery.outcome, delivery.context.request.percentile
    named = {"parent": outcome.parent, "winner": outcome.winner}
    named |= {name: c for name, c in outcome.baselines.items() if name == "cosine-joint"}
    points = [_build_point(delivery, c) for c in outcome.candidates]
    marked = {name: _build_point(delivery, c) for name, c in named.items()}
    labels = {
        "latency_label": f"p{p} latency, ms ({_name_scale(delivery, [*points, *marked.values()])})",
        "loss_label": f"{name_loss(outcome.winner.quality.metric)}, validation split (lower is better)",
        "title": f"{delivery.context.parent.id} on {delivery.context.target.name}, {delivery.context.workload}",
    }
    budget_ms = delivery.scale_budget_ms
    drawn = {
        "candidates": [asdict(point) for point in points], "named": {name: asdict(p) for name, p in marked.items()},
        "budget_ms": budget_ms, **labels,
    }  # fmt: skip
    _write_json(delivery.context.request.out / CANDIDATES, drawn)
    draw_pareto(points, marked, budget_ms, delivery.context.request.out / "pareto.png", **labels)
    write_pareto_page(points, marked, budget_ms, delivery.context.request.out / "pareto.html", **labels)


def _name_scale(delivery: Delivery, points: list[Point]) -> str:
    """Whose milliseconds the picture shows; all are of one latency model, so of one machine in one session."""
    if not delivery.latency.measured:
        return delivery.latency.label
    if not any(point.measured for point in points):
        return f"fitted, {delivery.latency.label}"
    return f"{delivery.latency.label}: squares; fitted: dots"


def _build_point(delivery: Delivery, candidate: Candidate) -> Point:
    prediction = delivery.latency.predict(candidate.architecture, delivery.context.request.percentile)
    label, words = f"{candidate.origin} · trial {candidate.trial}", candidate.architecture.words
    inside = prediction.ms <= delivery.scale_budget_ms
    return Point(prediction.ms, candidate.quality.loss, label, words, inside, prediction.exact)
