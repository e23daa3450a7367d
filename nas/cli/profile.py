"""`nas profile`: measure a model's latency on this machine and fit the latency model."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options

_HELP = """Measure a model and variants of it in ONNX Runtime on this machine, and fit a latency model.

Examples:

  nas profile --target host

  nas profile --target host --model ./my-model --workload forward:batch=4,seq=128 --seconds 60
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("profile", help=_HELP)(profile)


def profile(
    target: options.Target = "host",
    model: options.Model = None,
    workload: options.WorkloadText = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long to measure.")] = 20.0,
    out: options.Out = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print the fitted terms and their error; write profile.json."""
    from latency_models.fit import CalibratedModel
    from latency_models.targets import find_target
    from latency_models.workload import Workload
    from nas.cli import console
    from nas.latency import ParentExport, default_workload, host_profile
    from nas.subject import load_subject
    from search_spaces import Architecture, Kind, Unit
    from search_spaces.errors import UsageError

    found, wanted = find_target(target), None if workload is None else Workload.parse(workload)
    if not found.is_host:
        raise UsageError(f"target {found.name} cannot be measured from here; only --target host can")
    progress = console.progress_for_stderr()
    subject = load_subject(model, None, trust_remote_code)
    chosen = wanted or default_workload(subject, found)
    measured = host_profile(subject, ParentExport(subject, progress), chosen, progress, seconds, fresh=True)
    folder = out or Path("nas-results") / f"{Path(subject.id).name}-profile"
    measured.save(folder / "profile.json")
    fitted = CalibratedModel(measured)
    parent = fitted.predict(Architecture.parent(subject.anatomy.depth), 50)
    terms = {str(kind): fitted.unit_ms(Unit(0, kind)) for kind in (Kind.ATTENTION, Kind.MLP)}
    document = {
        "schema_version": 1,
        "model": subject.id,
        "target": found.name,
        "key": measured.key,
        "workload": str(chosen),
        "parent_p50_ms": parent.ms,
        "parent_p90_ms": fitted.predict(Architecture.parent(subject.anatomy.depth), 90).ms,
        "unit_p50_ms": terms,
        "constant_p50_ms": float(fitted.coefficients[0]),
        "leave_one_out_error": fitted.error,
        "records": len(measured.records),
        "file": str(folder / "profile.json"),
    }
    if json:
        console.emit_json(document)
        return
    console.emit_text(
        f"{subject.id} on {found.name} ({measured.key['runtime']}, {measured.key['threads']} threads), {chosen}\n"
        f"parent      {parent.ms:.2f} ms p50, {document['parent_p90_ms']:.2f} ms p90\n"
        f"attention   {terms['attention']:.3f} ms p50 in block 0\n"
        f"mlp         {terms['mlp']:.3f} ms p50 in block 0\n"
        f"the rest    {document['constant_p50_ms']:.3f} ms p50\n"
        f"error       {100 * fitted.error:.1f} % (median, each of {len(measured.records)} records from the others)\n"
        f"profile     {folder / 'profile.json'}"
    )
