"""`nas search`: the best architecture within a budget on a target."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.progress import Progress
    from nas.request.search_request import SearchRequest

_HELP = """Find the best version of a model that meets a latency budget on a target.

Examples:

  nas search --target jetson-orin --budget 20ms

  nas search --model ./my-model --data texts.jsonl --target host --budget 0.6x

  nas search --target host --budget 12ms --workload forward:batch=1,seq=256 --units attention --json

  nas search --target jetson-orin --budget 20ms --heal 10min

  nas search --target host --goal draft

  nas search --target host --budget 0.6x --method finercut-per-ms+add-back

  nas search --model digits-vit --target host --budget 0.5x --tokens search

  nas search --target host --budget 0.6x --workload prefill:batch=1,seq=512 --tokens pyramiddrop:4=0.5,6=0.25

  nas search --target jetson-orin --budget 20ms --executor ray --workers 8

  nas search --model ./my-t5 --part decoder --data pairs.jsonl --target jetson-orin --budget 0.7x

  nas search --resume nas-results/python-lm-host-0.6x
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("search", help=_HELP)(search)


def search(
    target: options.SearchTarget = None,
    budget: options.BudgetText = None,
    model: options.Model = None,
    part: options.Part = None,
    data: options.Data = None,
    workload: options.WorkloadText = None,
    units: options.Units = "attention,cross-attention,mlp,block",
    tokens: options.Tokens = "off",
    percentile: options.Percentile = 90,
    max_parameters: options.MaxParameters = None,
    max_bytes: options.MaxBytes = None,
    max_cache: options.MaxCache = None,
    trials: options.Trials = 48,
    time_limit: options.TimeLimit = None,
    method: options.Method = "nas",
    pareto: options.Pareto = False,
    servable: options.ServableRule = "any",
    seed: options.Seed = 0,
    prefix_cache: options.PrefixCache = 1024,
    verify_cache: options.VerifyCache = False,
    precision: options.Precision = "fp32",
    evaluate_in: options.Arithmetic = "auto",
    compensate: options.Compensate = "auto",
    goal: options.Goal = "quality",
    heal: options.Heal = None,
    heal_train: options.HealTrain = "projections+norms",
    batch: options.Batch = 4,
    executor: options.Executor = "local",
    workers: options.Workers = None,
    worker_resources: options.WorkerResources = None,
    device: options.Device = "auto",
    stream: options.Stream = "auto",
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    out: options.Out = None,
    resume: options.Resume = None,
    dry_run: options.DryRun = False,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Parse the flags into a request, run it, print the result."""
    from search_spaces.errors import UsageError

    if goal == "draft":  # which is of use below its parent's latency, and one token after another
        budget, workload = budget or "0.9x", workload or "decode:batch=1,past=256"
    if resume is None and (target is None or budget is None):
        missing = "--target" if target is None else "--budget"
        raise UsageError(f"{missing} is missing; write for example nas search --target jetson-orin --budget 20ms")
    from nas.cli import console

    progress = console.begin("search")
    from nas.request.choices import (
        check_arithmetic,
        check_compensation,
        check_device,
        check_goal,
        check_method,
        check_precision,
        check_streaming,
        check_tokens,
        check_trained,
    )
    from nas.request.quantities import Budget, ByteLimit, ParameterLimit, parse_duration
    from nas.request.search_request import SearchRequest, check_executor, parse_resources, parse_units
    from search_spaces.servable import parse_servable

    if resume is not None:
        _run(SearchRequest.load(resume), progress, dry_run, json)
        return
    assert target is not None
    assert budget is not None
    from latency_models.targets import find_target
    from latency_models.workload import Workload

    parsed, found = Budget.parse(budget), find_target(target)
    request = SearchRequest(
        target=target,
        budget=parsed,
        out=out or _choose_new_folder(model or "python-lm", found.name, parsed.text),
        model=model,
        part=part,
        data=data,
        workload=None if workload is None else Workload.parse(workload),
        units=parse_units(units),
        tokens=check_tokens(tokens),
        percentile=percentile,
        trials=trials,
        time_limit_s=None if time_limit is None else parse_duration(time_limit),
        seed=seed,
        storage=storage,
        tracking_uri=tracking_uri,
        trust_remote_code=trust_remote_code,
        method=check_method(method),
        pareto=pareto,
        servable=parse_servable(servable),
        prefix_cache_bytes=prefix_cache << 20,
        verify_cache=verify_cache,
        precision=check_precision(precision),
        arithmetic=check_arithmetic(evaluate_in),
        compensate=check_compensation(compensate),
        heal_s=None if heal is None else parse_duration(heal),
        heal_train=check_trained(heal_train),
        max_parameters=None if max_parameters is None else ParameterLimit.parse(max_parameters),
        max_bytes=None if max_bytes is None else ByteLimit.parse(max_bytes),
        max_cache=None if max_cache is None else ByteLimit.parse(max_cache),
        batch=batch,
        executor=check_executor(executor),
        workers=workers,
        worker_resources=None if worker_resources is None else parse_resources(worker_resources),
        device=check_device(device),
        stream=check_streaming(stream),
        goal=check_goal(goal),
    )
    _run(request, progress, dry_run, json)


def _run(request: "SearchRequest", progress: "Progress", dry_run: bool, json: bool) -> None:
    from nas.cli import console
    from nas.storage.disk_errors import write_failure
    from search_spaces.errors import Interrupted, NasError, WriteFailed

    if dry_run:
        from nas.pipeline.dry_run import plan

        planned = plan(request, progress)
        console.emit_json(planned.to_json()) if json else console.emit_text(planned.words)
        return
    from nas.pipeline.run import run

    try:
        result = run(request, progress)
    except KeyboardInterrupt:
        raise Interrupted(request.resume_command) from None
    except Exception as error:
        reason = write_failure(error)
        if not reason or isinstance(error, NasError):
            raise
        raise WriteFailed(f"{reason}, then continue with: {request.resume_command}") from None
    if json:
        console.emit_json(result.to_json())
    else:
        from nas.cli.summary import print_summary

        print_summary(result, request.out)


def _choose_new_folder(model: str, target: str, budget: str) -> Path:
    """The first unused folder for this search under nas-results/."""
    words = "-".join([Path(model).name, target, budget])
    stem = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in words)
    folders = (Path("nas-results") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(folder for folder in folders if not folder.exists())
