"""`nas route`: which queries a winner answers as its parent would, by how sure it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.routing import Point, Routing

_HELP = """Let the winner of a search answer what it is sure of, and its parent the rest.

For classifiers and language models. Thresholds are chosen on the validation split; what they do is counted on the
test split, and written to winner/routing.json with the whole curve.

Examples:

  nas route nas-results/python-lm-host-0.6x

  nas route nas-results/digits-vit-jetson-orin-2ms --agreement 0.98,0.999 --json
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("route", help=_HELP)(route)


def route(
    out: Annotated[Path, typer.Argument(metavar="RESULT_DIR", help="The result folder of a search.")],
    agreement: Annotated[
        str,
        typer.Option(
            "--agreement",
            metavar="SHARES",
            help="How often the winner's own answers are to be the parent's; a threshold for each.",
        ),
    ] = "0.9,0.95,0.99",
    data: options.Data = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Print the thresholds; write them beside the winner."""
    from nas.cli import console

    asked = _parse_shares(agreement)
    progress = console.begin("route")
    import json as documents

    from nas.parent.parent import load_parent_model
    from nas.quality.comparable import check_comparable
    from nas.request.search_request import SearchRequest
    from nas.routing import Costs, build_routing, compare_answers
    from nas.storage.result_folder import read_result
    from nas.tokens.space import build_candidate_evaluator
    from pruning.checkpoint import load_to_compute
    from pruning.inference.device import place

    request, result, winner = SearchRequest.load(out), read_result(out), out / "winner"
    model = load_to_compute(winner, request.trust_remote_code)
    parent = load_parent_model(
        request.model, data or request.data, request.trust_remote_code, device, request.stream, request.part
    )
    evaluator, model = build_candidate_evaluator(parent, model, winner), place(model, parent.device)
    check_comparable(model, parent.placed, evaluator, "test")
    with progress.open_stage("asking both models"):
        answers = {name: compare_answers(model, parent.placed, evaluator, name) for name in ("validation", "test")}
    routing = build_routing(answers["validation"], answers["test"], Costs.of(result), asked)
    document = routing.to_json()
    (winner / "routing.json").write_text(documents.dumps(document, indent=2, allow_nan=False) + "\n")
    if json:
        console.emit_json(document)
    else:
        console.emit_text("\n".join(_describe(routing)))


def _parse_shares(text: str) -> tuple[float, ...]:
    """Read agreements such as `0.9,0.99`.

    Raises:
        UsageError: one is no number above 0 and at most 1.
    """
    from search_spaces.errors import UsageError

    try:
        shares = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        shares = ()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UsageError(f"agreement {text!r}: shares above 0 and at most 1, as 0.9,0.99")
    return shares


def _describe(routing: "Routing") -> list[str]:
    """A table with a line for each threshold."""
    how = "measured" if routing.costs.measured else "predicted"
    lines = [f"{'asked':>7}  {'confidence':>10}  {'winner keeps':>12}  {'agrees':>7}  {'overall':>7}  {'saves':>14}"]
    for asked, point in routing.thresholds.items():
        told = "no confidence is enough; all go to the parent" if point is None else _describe_point(routing, point)
        lines.append(f"{asked:>7.2%}  {told}")
    return [
        *lines,
        f"of {routing.queries} queries of the test split; winner {routing.costs.winner_ms:.2f} ms, "
        f"parent {routing.costs.parent_ms:.2f} ms ({how})",
    ]


def _describe_point(routing: "Routing", point: "Point") -> str:
    saved = routing.costs.compute_saved_ms(point.share)
    return (
        f"{point.threshold:>10.3f}  {point.share:>12.1%}  {point.agreement:>7.2%}  {point.overall:>7.2%}  "
        f"{saved:>+8.2f} ms {saved / routing.costs.parent_ms:>+4.0%}"
    )
