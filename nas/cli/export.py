"""`nas export`: the files that are deployed, from a model or a pruned result."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latency_models.workload import Phase
from nas.cli import options

_HELP = """Export a model, or the winner of a search, to ONNX (and the form TensorRT takes), checked against torch.

Tokenizer or preprocessor and generation config are copied too.

Examples:

  nas export --model nas-results/python-lm-host-0.6x/winner --out deploy

  nas export --model python-lm --architecture architecture.json --out deploy

  nas export --model OUT/winner --phase decode --out deploy

  nas export --model ./my-model --precision fp16 --out deploy

  nas export --model ./my-model --engine --compute-capability SM89 --out deploy
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("export", help=_HELP)(export)


def export(
    model: options.Model = None,
    part: options.Part = None,
    architecture: Annotated[
        Path | None, typer.Option("--architecture", metavar="FILE", help="Prune with this architecture.json first.")
    ] = None,
    phase: Annotated[
        Phase, typer.Option("--phase", help="forward, or prefill and decode with a key-value cache.")
    ] = Phase.FORWARD,
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="NAME", help="Of weights and arithmetic in the files: fp32 or fp16."),
    ] = "fp32",
    out: options.ExportOut = None,
    engine: Annotated[bool, typer.Option("--engine", help="Build a TensorRT engine too.")] = False,
    compute_capability: Annotated[
        str | None,
        typer.Option("--compute-capability", metavar="SMxx", help="Build for this GPU without having it (RTX only)."),
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Write model.onnx and model.tensorrt.onnx; print how far they are from the model."""
    from nas.cli import console

    progress = console.begin("export")
    from nas.export.companions import carry_companions
    from nas.export.exporters import EXPORTERS
    from nas.export.onnx_export import build_file_name
    from nas.export.slices import choose_check
    from nas.export.tensorrt_export import build_engine
    from nas.storage.disk_errors import check_folder

    if out is not None:
        check_folder(out, "--out")
    dtype = _find_dtype(precision)
    loaded, name, source = _load(model, part, architecture, trust_remote_code)
    check = choose_check(loaded, dtype, progress)
    folder = out or Path("nas-results") / f"{name}-export"
    file = folder / build_file_name(phase)
    paths, opsets = {name: folder / each.name_file(file.name) for name, each in EXPORTERS.items()}, dict[str, int]()
    for runtime, exporter in EXPORTERS.items():
        with progress.open_stage(f"exporting for {runtime}"):
            exported = exporter.export(loaded, paths[runtime], phase, None, dtype, check)
        opsets[runtime] = exported.opset
        if exported.reason:
            progress.show_message(exported.reason)
    difference = max(check(loaded, path, phase) for path in paths.values())
    carry_companions(loaded, source, folder)
    files = {each: str(path) for each, path in paths.items()}
    builder = None
    if engine:
        with progress.open_stage("building the engine"):
            builder = build_engine(
                paths["tensorrt"], file.with_suffix(".engine"), compute_capability=compute_capability, phase=phase
            )
        files["engine"] = str(file.with_suffix(".engine"))
    document = {"schema_version": 1, "model": name, "opset": opsets["onnxruntime"], "largest_difference": difference,
                "engine_builder": builder, "files": files}  # fmt: skip
    if json:
        console.emit_json(document)
    else:
        console.emit_text(f"largest difference to torch {difference:.1e}\n" + "\n".join(files.values()))


def _find_dtype(precision: str) -> Any:
    """The type of a name.

    Raises:
        UsageError: files have no such one.
    """
    import torch

    from search_spaces.errors import UsageError

    types = {"fp32": torch.float32, "fp16": torch.float16}
    if precision not in types:
        raise UsageError(f"--precision {precision} is none of {', '.join(types)}; files are exported in one of these")
    return types[precision]


def _load(
    source: str | None, part: str | None, architecture: Path | None, trust_remote_code: bool
) -> tuple[Any, str, Path | None]:
    """The model, what it is called, and the folder that it came from."""
    import json

    from nas.parent.parent import load_parent_model
    from pruning.checkpoint import is_pruned, load
    from pruning.surgery.prune import prune
    from search_spaces import Architecture
    from search_spaces.errors import UsageError

    if source is not None and is_pruned(Path(source)):
        import torch

        return load(source, torch.float32, trust_remote_code), Path(source).resolve().parent.name, Path(source)
    parent = load_parent_model(source, None, trust_remote_code, part=part)
    if architecture is None:
        return parent.model, Path(parent.id).name, parent.files
    try:
        document = json.loads(architecture.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"architecture {architecture} cannot be read ({error}); give an architecture.json") from None
    pruned = prune(parent.model, Architecture.from_json(document), anatomy=parent.anatomy)
    return pruned, Path(parent.id).name, parent.files
