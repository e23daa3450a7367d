"""`nas export`: the files that are deployed, from a model or a pruned result."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latency_models.workload import Phase
from nas.cli import options

_HELP = """Export a model, or the winner of a search, to ONNX (and the form TensorRT takes), checked against torch.

Tokenizer or preprocessor and generation config are copied too. With --format, the winner of a search is written in
the forms that other programs load, and compared with the model in each of them (`parity.md` in the result folder).

Examples:

  nas export nas-results/python-lm-host-0.6x --format onnx,hf,genai

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
    result: Annotated[
        Path | None,
        typer.Argument(metavar="RESULT_DIR", help="A search's result folder (its winner), or a model's folder."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAMES",
            help="Of other programs' forms, with commas: onnx, hf (Transformers), sentence-transformers, genai, "
            "decilm, gguf, tensorrt.",
        ),
    ] = None,
    print_command: Annotated[
        bool,
        typer.Option(
            "--print-command", help="Also print the llama-quantize line that makes the same of the parent (gguf)."
        ),
    ] = False,
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

    if format is not None:
        _refuse_beside_format(architecture, precision, engine, part)
        _export_formats(format, result, model, out, trust_remote_code, json, print_command)
        return
    _refuse_without_format(print_command)
    progress = console.begin("export")
    from nas.export.companions import carry_companions
    from nas.export.exporters import EXPORTERS
    from nas.export.onnx_export import build_file_name
    from nas.export.slices import choose_check
    from nas.export.tensorrt_export import InputRange, build_engine
    from nas.storage.disk_errors import check_folder

    if out is not None:
        check_folder(out, "--out")
    dtype = _find_dtype(precision)
    loaded, name, source = _load(_choose_model(result, model), part, architecture, trust_remote_code)
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
            ranges = InputRange().limit_to(loaded, phase)
            builder = build_engine(paths["tensorrt"], file.with_suffix(".engine"), ranges, compute_capability, phase)
        files["engine"] = str(file.with_suffix(".engine"))
    document = {"schema_version": 1, "model": name, "opset": opsets["onnxruntime"], "largest_difference": difference,
                "engine_builder": builder, "files": files}  # fmt: skip
    if json:
        console.emit_json(document)
    else:
        console.emit_text(f"largest difference to torch {difference:.1e}\n" + "\n".join(files.values()))


def _choose_model(result: Path | None, model: str | None) -> str | None:
    """What is exported: the winner of a result folder, or what `--model` says.

    Raises:
        UsageError: both are given.
    """
    from search_spaces.errors import UsageError

    if result is None:
        return model
    if model is not None:
        raise UsageError(f"RESULT_DIR {result} and --model {model} both name a model; give one of them")
    return str(result / "winner" if (result / "winner").is_dir() else result)


def _refuse_beside_format(architecture: Path | None, precision: str, engine: bool, part: str | None) -> None:
    """Refuse options of single graphs.

    Raises:
        UsageError: one is given.
    """
    from search_spaces.errors import UsageError

    given = {"--architecture": architecture, "--precision": precision != "fp32", "--engine": engine, "--part": part}
    named = [name for name, value in given.items() if value]
    if named:
        raise UsageError(f"{named[0]} and --format: formats hold the model as it was saved; leave one out")


def _refuse_without_format(print_command: bool) -> None:
    """Refuse an option of the formats.

    Raises:
        UsageError: it is given.
    """
    from search_spaces.errors import UsageError

    if print_command:
        raise UsageError("--print-command without --format: the line is one of llama.cpp; add --format gguf")


def _export_formats(
    names: str,
    result: Path | None,
    model: str | None,
    out: Path | None,
    trust_remote_code: bool,
    json: bool,
    print_command: bool,
) -> None:
    from nas.cli.formats import export_formats
    from search_spaces.errors import UsageError

    _choose_model(result, model)
    folder = result or (Path(model) if model else None)
    if folder is None or not folder.is_dir():
        given = "--format without a folder" if folder is None else f"{folder} is no folder"
        raise UsageError(f"{given}; give the result folder of a search, or a model's folder")
    export_formats(names, folder, out, trust_remote_code, json, print_command)


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
    from nas.pipeline.channel_orders import CHANNELS, restore_orders
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
    if (architecture.parent / CHANNELS).is_file():
        restore_orders(parent.model, parent.anatomy, architecture.parent / CHANNELS)
    pruned = prune(parent.model, Architecture.from_json(document), anatomy=parent.anatomy)
    return pruned, Path(parent.id).name, parent.files
