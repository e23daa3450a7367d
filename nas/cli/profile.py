"""`nas profile`: measure a model's latency on this machine or on a device, and fit the latency model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options

if TYPE_CHECKING:
    from latency_models.profile import Profile

_HELP = """Measure a model and variants of it on this machine or on a device, and fit a latency model.

Examples:

  nas profile --target host

  nas profile --target host --model ./my-model --workload forward:batch=4,seq=128 --seconds 60

  nas profile --model digits-vit --tokens search

  nas profile --target jetson-orin --host user@device

  nas profile kit --target jetson-orin --model ./my-model -o kit.zip
"""
_KIT_HELP = """Write a zip file that measures a model on a device, which needs only Python and a runtime.

It carries graphs and no trained weights. On the device: unzip it, python3 run.py; then here: nas profile import.

Examples:

  nas profile kit --target jetson-orin --model ./my-model -o kit.zip

  nas profile kit --target l4 --model ./my-model --workload prefill:batch=1,seq=512 -o kit.zip

  nas profile kit --target jetson-orin --model ./my-model --precision search -o kit.zip
"""
_IMPORT_HELP = """Check the profile.json that a kit wrote on a device, fit a latency model, and keep it for searches.

Examples:

  nas profile import profile.json

  nas profile import profile.json --model ./my-model
"""

Seconds = Annotated[
    float | None,
    typer.Option("--seconds", min=1, help="How long to measure. Default: 20 on this machine, 60 on a device."),
]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    group = typer.Typer(add_completion=False)
    group.callback(invoke_without_command=True, help=_HELP)(profile)
    group.command("kit", help=_KIT_HELP)(kit)
    group.command("import", help=_IMPORT_HELP)(import_)
    app.add_typer(group, name="profile")


def profile(
    context: typer.Context,
    target: options.Target = "host",
    model: options.Model = None,
    part: options.Part = None,
    data: options.Data = None,
    workload: options.WorkloadText = None,
    tokens: options.Tokens = "off",
    precision: options.Precision = "fp32",
    seconds: Seconds = None,
    host: options.Host = None,
    python: options.Python = "python3",
    port: options.Port = None,
    ssh_config: options.SshConfig = None,
    out: options.ProfileOut = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print the fitted terms and their error; write profile.json."""
    if context.invoked_subcommand is not None:
        return
    from nas.cli import console

    progress = console.begin("profile")
    from latency_models.targets import find_target
    from latency_models.workload import Workload
    from nas.export.parent_export import ParentExport
    from nas.parent.parent import load_parent_model
    from nas.pipeline.precision import add_formats
    from nas.profiling.host import SECONDS
    from nas.profiling.host_profile import load_host_profile
    from nas.profiling.kit import SECONDS as KIT_SECONDS
    from nas.profiling.kit import Kit
    from nas.profiling.ssh import SshTarget, profile_there
    from nas.request.choices import check_precision, check_tokens
    from nas.storage.disk_errors import check_folder
    from nas.tokens.profiled_schedules import choose_profiled
    from search_spaces.errors import UsageError

    device, wanted = find_target(target), None if workload is None else Workload.parse(workload)
    reducing, bits = check_tokens(tokens), check_precision(precision)
    ssh_target = None if host is None else SshTarget(host, python, port, ssh_config)
    if ssh_target is None and not device.is_host:
        raise UsageError(
            f"target {device.name} cannot be measured from here; give --host user@device, or copy a kit there "
            f"(nas profile kit --target {target} -o kit.zip)"
        )
    if out is not None:
        check_folder(out, "--out")
    parent = load_parent_model(model, data, trust_remote_code, part=part)
    chosen, space = choose_profiled(parent, device, wanted, reducing, progress)
    space = add_formats(space, parent, device, chosen, bits)
    if ssh_target is None:
        export = ParentExport(parent, progress, chosen.phase)
        measured = load_host_profile(parent, export, chosen, progress, seconds or SECONDS, fresh=True, space=space)
    else:
        kit = Kit(parent, device, chosen, seconds or KIT_SECONDS, space=space)
        measured = profile_there(kit, ssh_target, progress)
    file = (out or Path("nas-results") / f"{Path(parent.id).name}-profile") / "profile.json"
    measured.save(file)
    _show(measured, parent.id, file, json)


def kit(
    target: options.SearchTarget = None,
    model: options.Model = None,
    part: options.Part = None,
    data: options.Data = None,
    workload: options.WorkloadText = None,
    tokens: options.Tokens = "off",
    precision: options.Precision = "fp32",
    seconds: Seconds = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.zip", help="The file to write.")] = Path("kit.zip"),
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write the kit."""
    from nas.cli import console

    progress = console.begin("profile kit")
    import shutil

    from latency_models.targets import find_target
    from latency_models.workload import Workload
    from nas.parent.parent import load_parent_model
    from nas.pipeline.precision import add_formats
    from nas.profiling.kit import SECONDS, Kit, check_target
    from nas.request.choices import check_precision, check_tokens
    from nas.tokens.profiled_schedules import choose_profiled
    from search_spaces.errors import UsageError

    if target is None:
        raise UsageError("--target is missing; write for example nas profile kit --target jetson-orin -o kit.zip")
    device, wanted = check_target(find_target(target)), None if workload is None else Workload.parse(workload)
    reducing, bits = check_tokens(tokens), check_precision(precision)
    parent = load_parent_model(model, data, trust_remote_code, part=part)
    chosen, space = choose_profiled(parent, device, wanted, reducing, progress)
    space = add_formats(space, parent, device, chosen, bits)
    made = Kit(parent, device, chosen, seconds or SECONDS, space=space)
    shutil.copyfile(made.build(progress), out)
    console.emit_text(
        f"{out}  {out.stat().st_size / 1e6:.1f} MB, {parent.id} on {device.name}, {made.workload}; no trained weights\n"
        f"on the device   unzip it, then python3 run.py\n"
        f"then here       nas profile import profile.json"
    )


def import_(
    file: Annotated[Path, typer.Argument(metavar="PROFILE", help="The profile.json that the kit wrote.")],
    model: options.Model = None,
    part: options.Part = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Print the fitted terms and their error; keep the profile."""
    from nas.profiling.profile_store import import_profile

    parent = None
    if model is not None:  # else nothing has to load torch
        from nas.parent.parent import load_parent_model

        parent = load_parent_model(model, None, trust_remote_code, part=part)
    measured, kept = import_profile(file, parent)
    _show(measured, measured.model if parent is None else parent.id, kept, json)


def _show(measured: "Profile", name: str, file: Path, json: bool) -> None:
    """The fitted terms and their error."""
    from latency_models.calibrated import CalibratedModel
    from nas.cli import console
    from search_spaces import PARTS, Architecture, Unit

    fitted = CalibratedModel(measured)
    whole = Architecture.parent(measured.shape.depth)
    parent = fitted.predict(whole, 50)
    terms = {str(kind): fitted.predict_unit_ms(Unit(0, kind)) for kind in PARTS}
    schedules = sorted({str(record.architecture.tokens) for record in measured.records} - {""})
    document = {
        "schema_version": 1,
        "model": name,
        "target": measured.target,
        "key": measured.key,
        "workload": str(measured.workload),
        "parent_p50_ms": parent.ms,
        "parent_p90_ms": fitted.predict(whole, 90).ms,
        "unit_p50_ms": terms,
        "constant_p50_ms": float(fitted.coefficients[0]),
        "leave_one_out_error": fitted.error,
        "records": len(measured.records),
        "schedules": schedules,
        "file": str(file),
    }
    if json:
        console.emit_json(document)
        return
    key = measured.key
    console.emit_text(
        f"{name} on {measured.target} ({key['runtime']}, threads {key['threads']}, {key['device']}), "
        f"{measured.workload}\n"
        f"parent      {parent.ms:.2f} ms p50, {document['parent_p90_ms']:.2f} ms p90\n"
        + "".join(f"{kind:<11} {ms:.3f} ms p50 in block 0\n" for kind, ms in terms.items())
        + f"the rest    {document['constant_p50_ms']:.3f} ms p50\n"
        f"error       {100 * fitted.error:.1f} % "
        f"(median; each of {len(measured.records)} records is predicted from the others)\n"
        + (f"tokens      {'; '.join(schedules)}\n" if schedules else "")
        + f"profile     {file}"
    )
