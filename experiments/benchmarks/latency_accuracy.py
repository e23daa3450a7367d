"""How far a predicted millisecond can be trusted: every bar of the latency models, one sub-command each.

    python experiments/benchmarks/latency_accuracy.py hat --data DIR
    python experiments/benchmarks/latency_accuracy.py synthetic
    python experiments/benchmarks/latency_accuracy.py bursts
    python experiments/benchmarks/latency_accuracy.py datasheet
    python experiments/benchmarks/latency_accuracy.py host
    python experiments/benchmarks/latency_accuracy.py winners --folder DIR

Each prints a Markdown table; --out writes its figures as JSON, --figure draws them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from latency import bursts, datasheet, hat, host, synthetic, winners


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    public = commands.add_parser("hat", help="HAT's public measurements: held-out error from 20 samples")
    public.add_argument("--data", type=Path, required=True, help="the folder with HAT's latency CSV files")
    public.add_argument("--seeds", type=int, default=100)
    known = commands.add_parser("synthetic", help="a device with known coefficients: recovery, coverage, budgets")
    known.add_argument("--devices", type=int, default=50)
    known.add_argument("--searches", type=int, default=200)
    busy = commands.add_parser("bursts", help="searches on a synthetic device that other work keeps busy")
    busy.add_argument("--searches", type=int, default=200)
    busy.add_argument("--milliseconds", action="store_true", help="budgets in ms in place of fractions of the parent")
    commands.add_parser("datasheet", help="published latencies against data sheets")
    here = commands.add_parser("host", help="this machine: 60 held-out architectures of each reference model")
    here.add_argument("--seconds", type=float, default=60.0, help="of measuring, twice for each case")
    again = commands.add_parser("winners", help="certified winners of this machine measured once more")
    again.add_argument("--folder", type=Path, required=True, help="where the searches' results go, or are already")
    again.add_argument("--seeds", type=int, default=2)
    for command in (here, again):
        command.add_argument("--models", default="python-lm,minilm,digits-vit")
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, help="write the figures as JSON")
        command.add_argument("--figure", type=Path, help="draw them")
    return parser.parse_args()


def measure_part(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The part that was asked for, and its document."""
    if args.command == "hat":
        return hat, hat.run(args.data, args.seeds)
    if args.command == "synthetic":
        return synthetic, synthetic.run(args.devices, args.searches, lambda step: print(step, file=sys.stderr))
    if args.command == "bursts":
        return bursts, bursts.run(args.searches, not args.milliseconds, lambda step: print(step, file=sys.stderr))
    if args.command == "host":
        return host, host.run(args.seconds, set(args.models.split(",")))
    if args.command == "winners":
        return winners, winners.run(args.folder, args.seeds, set(args.models.split(",")))
    return datasheet, datasheet.run()


def main() -> None:
    args = parse_arguments()
    part, document = measure_part(args)
    print(part.format_table(document))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"command": args.command, **document}, indent=1) + "\n")
    if args.figure:
        part.draw_figure(document, args.figure)


if __name__ == "__main__":
    main()
