"""A finished search in the words and numbers of the page; the template only places them."""

import base64
from dataclasses import dataclass
from typing import Any

from nas.report.command import build_command
from nas.report.drawing import Block, Chart, draw_pareto, draw_redundancy, strip
from nas.report.finished import Finished
from nas.report.tables import (
    Row,
    build_certificate_rows,
    build_comparison_rows,
    build_entry_rows,
    build_parent_rows,
    build_unit_rows,
    get_latency,
    join_baseline_names,
)
from nas.report.words import (
    format_energy,
    format_figure,
    format_ms,
    format_parameters,
    format_ratio,
    format_size,
    name_metric,
)
from nas.results.finalists import describe_order, list_rung_steps, tabulate_finalists
from nas.results.glossary import RUNNER_UP, explain_percentile, explain_words
from nas.storage.result_folder import resume_command
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError

_PICTURE = "data:image/png;base64,"


@dataclass(frozen=True)
class View:
    """One search on the page. Rows are tuples of cells, the first names the row; tiles are name, value, beside.

    The first of the `finalists` is the head of their table; `order` says what changed it.

    `look` is certified, predicted or refused; `files` are name, size, digest and whether the certificate is of it;
    `picture` is a data: URI, for folders that do not hold the numbers of the chart.
    """

    title: str
    subtitle: str
    verdict: str
    reason: str
    look: str
    tiles: tuple[Row, ...]
    facts: tuple[Row, ...]
    blocks: tuple[Block, ...]
    tokens: str
    charts: tuple[Chart, ...]
    picture: str
    certificate: tuple[Row, ...]
    files: tuple[tuple[str, str, str, bool], ...]
    comparisons: tuple[Row, ...]
    entries: tuple[tuple[str, str, str, str, tuple[Block, ...]], ...]
    metric: str
    meanings: tuple[Row, ...]
    units: tuple[Row, ...]
    command: str
    resume: str
    versions: tuple[Row, ...]
    overview: Row
    finalists: tuple[Row, ...]
    order: tuple[str, ...]


def build_view(finished: Finished) -> View:
    """What the page shows of a search.

    Raises:
        UsageError: the result does not hold what a result holds.
    """
    try:
        return _build_view(finished)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{finished.folder} holds a damaged result ({reason}); continue with: {resume_command(finished.folder)}"
        ) from None


def build_headline(finished: Finished) -> dict[str, Any]:
    """A search among others, for programs; latencies in ms at the result's percentile."""
    result, winner = finished.result, finished.result["winner"]
    return {
        "out": str(finished.folder),
        "model": result["model"]["id"],
        "target": result["target"]["name"],
        "workload": result["workload"],
        "percentile": result["percentile"],
        "budget_ms": result["budget_ms"],
        "parent_ms": get_latency(result["parent"]),
        "winner_ms": get_latency(winner),
        "measured": winner["measured_ms"] is not None,
        "quality": winner["quality"],
        "parameters": winner["parameters"],
        "certified": winner["certified"],
        "verdict": winner["verdict"],
        "words": winner["words"],
    }


def _build_view(finished: Finished) -> View:
    result, certificate, winner = finished.result, finished.certificate, finished.result["winner"]
    architecture = Architecture.from_json(winner["architecture"])
    blocks, model, target = strip(architecture), result["model"]["id"], result["target"]["name"]
    verdict, _, reason = winner["verdict"].partition(": ")
    measured = certificate.file_sha256 if certificate is not None and certificate.winner is not None else None
    charts = [] if finished.redundancy is None else [draw_redundancy(finished.redundancy["similarity"], blocks)]
    charts += [] if finished.candidates is None else [draw_pareto(finished.candidates)]
    return View(
        title=f"{model} on {target}",
        subtitle=f"{result['workload']} · {_describe_budget(finished)} · {result['target']['label']}",
        verdict=verdict,
        reason=reason,
        look=_look(winner, verdict),
        tiles=_build_tiles(result),
        facts=build_parent_rows(result, certificate),
        blocks=blocks,
        tokens=winner["tokens"],
        charts=tuple(charts),
        picture=_embed_picture(finished.pareto) if finished.candidates is None else "",
        certificate=() if certificate is None else build_certificate_rows(certificate),
        files=tuple(
            (file.name, format_size(file.size), file.sha256, file.sha256 == measured) for file in finished.files
        ),
        comparisons=build_comparison_rows(result["comparisons"], join_baseline_names(result)),
        entries=build_entry_rows(result),
        metric=name_metric(winner["quality"]["metric"]),
        meanings=_list_meanings(result),
        units=build_unit_rows(result["units"], architecture),
        command="" if finished.request is None else build_command(finished.request),
        resume=resume_command(finished.folder),
        versions=tuple(sorted(result["versions"].items())) + _describe_search(result),
        overview=_build_overview(finished, verdict),
        **_build_finalists(result),
    )


def _build_finalists(result: dict[str, Any]) -> dict[str, Any]:
    """The table of finalists, its head first, and what changed their order; nothing of a single one."""
    finalists = result.get("finalists", [])  # results of earlier versions have none
    steps = list_rung_steps(result["winner"].get("healing"))
    rows = tabulate_finalists(finalists, steps) if len(finalists) > 1 else []
    return {"finalists": tuple(map(tuple, rows)), "order": tuple(describe_order(finalists, steps))}


def _list_meanings(result: dict[str, Any]) -> tuple[Row, ...]:
    """The words of the tables with what they mean."""
    own = result["winner"]["quality"]
    words = [own["metric"], *(key for key in own if key != "metric"), "winner", RUNNER_UP]
    words += [*(entry["method"] for entry in result["baselines"]), "predicted", "measured", "paired"]
    p = result["percentile"]
    return (
        (f"p{p}", explain_percentile(p)),
        *((name_metric(word), meaning) for word, meaning in explain_words(words).items()),
    )


def _describe_budget(finished: Finished) -> str:
    """The budget as asked and as resolved."""
    resolved = f"{format_ms(finished.result['budget_ms'])} at p{finished.result['percentile']}"
    asked = finished.request.budget.text if finished.request else ""
    return f"budget {asked} = {resolved}" if asked.endswith("x") else f"budget {resolved}"


def _look(winner: dict[str, Any], verdict: str) -> str:
    if winner["certified"]:
        return "certified"
    return "predicted" if verdict.startswith("predicted") else "refused"


def _build_tiles(result: dict[str, Any]) -> tuple[Row, ...]:
    """The headline: latency, quality, parameters, memory, energy where it is known."""
    winner, parent = result["winner"], result["parent"]
    one, other, quality = get_latency(winner), get_latency(parent), winner["quality"]
    kind = "predicted" if winner["measured_ms"] is None else "measured"
    tiles = [
        (f"p{result['percentile']} latency, {kind}", format_ms(one),
         f"{format_ratio(one, other)} the parent's {format_ms(other)}"),
        (
            name_metric(quality["metric"]), format_figure(quality["value"]),
            f"on {quality['items']} held-out items; {'higher' if quality['higher_is_better'] else 'lower'} is better",
        ),
        ("parameters", format_parameters(winner["parameters"]),
         f"of {format_parameters(result['model']['parameters'])}"),
        ("memory", format_size(sum(winner["memory_bytes"].values())), "weights, cache, activations"),
    ]  # fmt: skip
    if winner["joules"] is not None:
        tiles.append(("energy", format_energy(winner["joules"]), "of one inference"))
    return tuple(tiles)


def _embed_picture(png: bytes | None) -> str:
    return "" if png is None else _PICTURE + base64.b64encode(png).decode()


def _describe_search(result: dict[str, Any]) -> tuple[Row, ...]:
    search = result["search"]
    return (
        ("trials", str(search["trials"])),
        ("evaluations", str(search["evaluations"])),
        ("seconds of search", str(search["seconds"])),
        ("seed", str(search["seed"])),
        *((f"seconds of {phase}", str(seconds)) for phase, seconds in result.get("phases", {}).items()),
    )


def _build_overview(finished: Finished, verdict: str) -> Row:
    """The search as one row among others."""
    result = finished.result
    winner, parent = result["winner"], result["parent"]
    one, quality = get_latency(winner), winner["quality"]
    return (
        result["model"]["id"], result["target"]["name"], result["workload"], format_ms(result["budget_ms"]),
        format_ms(one),
        format_ratio(one, get_latency(parent)), f"{name_metric(quality['metric'])} {format_figure(quality['value'])}",
        format_parameters(winner["parameters"]), verdict,
    )  # fmt: skip
