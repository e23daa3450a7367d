"""The options that several verbs share, so that a flag means the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PATH_OR_HUB_ID",
        help="A Hugging Face folder, a hub id, or a shipped reference model: python-lm (language), minilm (text "
        "encoder), digits-vit (images), digits-vlm (questions about images). Default: python-lm. Only a hub id is "
        "downloaded.",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="NAME",
        help="The stack to prune of a model that has several: encoder or decoder (T5, Whisper), language or vision "
        "(questions about images; default: language), text or vision (CLIP, SigLIP).",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE|DIR",
        help="Text: .txt (blank lines between texts; one text alone is cut), .jsonl, .json or .csv with 'text' and "
        "optionally 'project' and 'split', or a folder of text files. Images: a folder with one folder per class. "
        "Questions about images: a folder with questions.jsonl ('image', 'question', 'answer' a line) and images. "
        "Default: the data that belongs to the reference model.",
    ),
]
Target = Annotated[
    str, typer.Option("--target", metavar="NAME", help="A device; `nas targets` lists them. `host` is this machine.")
]
WorkloadText = Annotated[
    str | None,
    typer.Option(
        "--workload",
        metavar="WORKLOAD",
        help="What is timed: forward:batch=8,seq=128, all outputs of a batch; for a decoder also "
        "prefill:batch=1,seq=512, reading a prompt, or decode:batch=1,past=512, one more token after 512 cached ones. "
        "Default: depends on the model and the target.",
    ),
]
Percentile = Annotated[
    int, typer.Option("--percentile", min=50, max=99, help="The percentile that has to meet the budget.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same search.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The result folder. Default: MODEL-TARGET-BUDGET in nas-results."),
]
AnalysisOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="For tables and pictures. Default: MODEL-analysis in nas-results."),
]
ProfileOut = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="For profile.json. Default: MODEL-profile in nas-results.")
]
ExportOut = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="For the files. Default: MODEL-export in nas-results.")
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where models are evaluated: auto (a CUDA device where there is one, else the CPU), cpu, cuda, cuda:N or "
        "mps.",
    ),
]
Stream = Annotated[
    str,
    typer.Option(
        "--stream",
        metavar="WHEN",
        help="Let go of each block's weights as soon as it has run, so that no more than a block or two is in memory: "
        "auto (where the weights are more than a quarter of the free memory), always or never.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that a checkpoint carries. Off by default.")
]

# Of `nas search` alone.

SearchTarget = Annotated[str | None, typer.Option("--target", metavar="NAME", help="A device of `nas targets`.")]
BudgetText = Annotated[
    str | None,
    typer.Option("--budget", metavar="AMOUNT", help="20ms, or 0.6x: that fraction of the parent's latency."),
]
Units = Annotated[
    str,
    typer.Option(
        "--units",
        show_default=False,
        help="What may be dropped: attention, cross-attention, mlp, block. Default: all of them; none with --tokens "
        "search.",
    ),
]
Tokens = Annotated[
    str,
    typer.Option(
        "--tokens",
        metavar="HOW",
        help="Drop tokens between blocks: off; search, to search where and how many, together with the units; or a "
        "fixed schedule: pyramiddrop[:8=0.5,...], fastv[:2=0.5], tome[:0.08], "
        "visionzip[:0.112], keys, norm, random. A decoder drops tokens of its prompt (--workload prefill:...).",
    ),
]
MaxParameters = Annotated[
    str | None,
    typer.Option(
        "--max-parameters",
        metavar="AMOUNT",
        help="Limit the number of parameters too: 4M, 500k, or 0.7x of the parent's. Times the bytes of one parameter, "
        "this limits the memory of the weights.",
    ),
]
MaxBytes = Annotated[
    str | None,
    typer.Option(
        "--max-bytes",
        metavar="AMOUNT",
        help="Limit the bytes of the weights in the file too: 400MB, or 0.3x of the parent's.",
    ),
]
MaxCache = Annotated[
    str | None,
    typer.Option(
        "--max-cache",
        metavar="AMOUNT",
        help="Limit the bytes of keys and values at the end of the workload too: 64MB, or 0.5x of the parent's.",
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        "--batch",
        min=1,
        help="Trials that are proposed together and evaluated at once. The same batch finds the same winner on any "
        "number of workers; about as many as there are workers keeps them busy.",
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Where evaluations run: local, in this process; ray, on the cluster of RAY_ADDRESS or one started here.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="With --executor ray: their number. Default: as many as the cluster has room for."
    ),
]
WorkerResources = Annotated[
    str | None,
    typer.Option(
        "--worker-resources",
        metavar="JSON",
        help='With --executor ray: what each worker asks of its node, as \'{"CPU": 2, "big-memory": 1}\'. '
        "Default: one CPU.",
    ),
]
Trials = Annotated[int, typer.Option("--trials", min=1, help="The most trials for each budget.")]
TimeLimit = Annotated[
    str | None, typer.Option("--time-limit", metavar="TIME", help="End the search after 90s, 10min or 1h.")
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="nas, or a published method: cosine-joint, cosine-attention, cosine-mlp, cosine-block, reverse, random, "
        "window, sprint, sleb, sleb-per-ms, finercut, finercut-per-ms, evopress; with +add-back after its name, what "
        "still fits the budget is restored. With --tokens search also pyramiddrop, random-tokens, fastv, tome, "
        "equal-steps, dop; with units that can be narrowed also flap, wanda-sp.",
    ),
]
Pareto = Annotated[
    bool, typer.Option("--pareto", help="Search the best model at several latencies around the budget, in one study.")
]
ServableRule = Annotated[
    str,
    typer.Option(
        "--servable",
        metavar="RULE",
        help="What must be able to load the winner: any (ONNX, TensorRT, nas), decilm (engines with per-block "
        "choices), vanilla (plain Hugging Face classes), uniform (engines that read one number of heads and of "
        "experts for all blocks).",
    ),
]
PrefixCache = Annotated[
    int,
    typer.Option(
        "--prefix-cache", metavar="MIB", min=0, help="Memory for hidden states that candidates share; 0: off."
    ),
]
VerifyCache = Annotated[
    bool,
    typer.Option("--verify-cache", help="Repeat every eighth evaluation without the cache; fail on a difference."),
]
Arithmetic = Annotated[
    str,
    typer.Option(
        "--evaluate-in",
        metavar="NAME",
        help="Precision of the trials' evaluations: auto, fp32 or bf16. The final choice is made in fp32.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Bits of the winner's weights: fp32 leaves them; search lets every attention, MLP and head have any "
        "format that the target runs it faster in; a name allows that one: int8, w8, w4, w2 (of ternary weights) on "
        "this machine, w8a8, fp8, w4a16 in TensorRT.",
    ),
]
Compensate = Annotated[
    str,
    typer.Option(
        "--compensate",
        metavar="HOW",
        help="Adjust what is left, in closed form on calibration items, so that it stands in for what was dropped: "
        "auto (refit, of very wide projections merge), off, bias, refit or merge. No file gets slower by it.",
    ),
]
Goal = Annotated[
    str,
    typer.Option(
        "--goal",
        metavar="NAME",
        help="quality: the best model within the budget; draft: of a decoder, the model that writes ahead for its "
        "parent with the most tokens a second, and the same text (--budget is then the most that it may take, and "
        "may be left out).",
    ),
]
Heal = Annotated[
    str | None,
    typer.Option(
        "--heal",
        metavar="TIME",
        help="Train the best candidates for so long together, as 10min, to give what their parent gives: all of them "
        "for a short time, the better half longer, one for the rest. The best after that is the winner. Off by "
        "default.",
    ),
]
HealTrain = Annotated[
    str,
    typer.Option(
        "--heal-train",
        metavar="WHAT",
        help="With --heal, what is trained: projections+norms, lora (adapters of all matrices, merged at the end; "
        "needs nas[heal]) or all weights.",
    ),
]
Storage = Annotated[
    str | None, typer.Option("--storage", metavar="URL", help="The study's database. Default: OUT/study.db.")
]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking-uri", metavar="URI", help="MLflow. Default: a database in OUT.")
]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Continue this search.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and stop.")]
Host = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="USER@DEVICE", help="Measure on this device, over ssh. Names of your ssh configuration work."
    ),
]
Python = Annotated[str, typer.Option("--python", metavar="PATH", help="The interpreter on the device.")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="The port of ssh on the device.")]
SshConfig = Annotated[
    Path | None,
    typer.Option("--ssh-config", metavar="FILE", help="Use this file instead of your own ssh configuration."),
]
