"""Greedy tokens a second of a decoder alone, and with a draft that writes ahead, by Transformers' assisted generation.

    python experiments/benchmarks/draft_speed.py OUT/winner
    python experiments/benchmarks/draft_speed.py OUT/winner --ahead 2,4,6 --rounds 9 --json draft.json

Every round runs every way of generating once, in random order, on the same prompt; ratios are of the same round, and
what is printed is their median. Outputs are compared token by token.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from nas.parent.parent import load_parent_model
from nas.pipeline.draft import FILE
from pruning.checkpoint import load


def main() -> None:
    """Measure and print a table."""
    asked = parse_arguments()
    torch.set_num_threads(asked.threads)
    parent, draft = load_parent_model(asked.parent, asked.data), load(asked.draft, torch.float32)
    windows = parent.dataset.test.inputs["input_ids"]
    prompts = [window[None, : asked.prompt] for window in windows[: asked.prompts]]
    found = measure(parent.model, draft, prompts, asked)
    told = asked.draft / FILE
    document = {
        "parent": parent.id, "draft": str(asked.draft), "torch": torch.__version__, "threads": asked.threads,
        "tokens": asked.tokens, "expected": json.loads(told.read_text()) if told.exists() else None, **found,
    }  # fmt: skip
    if asked.json is not None:
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    print("\n".join(describe(document)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draft", type=Path, help="the winner of nas search --goal draft")
    parser.add_argument("--parent", default=None, help="default: python-lm")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--ahead", default="1,2,3,4,6,8", help="numbers of tokens that the draft writes ahead")
    parser.add_argument("--tokens", type=int, default=64, help="that are generated of each prompt")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    return parser.parse_args()


def measure(parent: Any, draft: Any, prompts: list[torch.Tensor], asked: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each way, their ratios to the parent alone, and a step of the draft over the parent's."""
    ways = {"alone": None, "draft alone": None, **{f"{count} ahead": int(count) for count in asked.ahead.split(",")}}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    same, rng = dict.fromkeys(ways, True), random.Random(0)
    for turn in range(-1, asked.rounds):  # the first is not counted
        prompt, outputs = prompts[turn % len(prompts)], {}
        for way in rng.sample(list(ways), len(ways)):
            began = time.perf_counter()
            outputs[way] = generate(draft if way == "draft alone" else parent, prompt, asked.tokens, draft, ways[way])
            if turn >= 0:
                rates[way].append(asked.tokens / (time.perf_counter() - began))
        for way, output in outputs.items():
            same[way] &= torch.equal(output, outputs["alone"])
    ratios = {way: statistics.median(a / b for a, b in zip(rates[way], rates["alone"], strict=True)) for way in ways}
    return {
        "tokens_per_second": {way: statistics.median(each) for way, each in rates.items()},
        "ratio": ratios,
        "same_text": {way: each for way, each in same.items() if way != "draft alone"},
        "cost_of_a_step": 1 / ratios["draft alone"],
    }


@torch.inference_mode()
def generate(model: Any, prompt: torch.Tensor, tokens: int, draft: Any, ahead: int | None) -> torch.Tensor:
    """(1, prompt and tokens), the likeliest each time."""
    more: dict[str, Any] = {}
    if ahead is not None:
        draft.generation_config.num_assistant_tokens = ahead
        draft.generation_config.num_assistant_tokens_schedule = "constant"
        draft.generation_config.assistant_confidence_threshold = 0.0
        more["assistant_model"] = draft
    ids: torch.Tensor = model.generate(
        prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, **more
    )
    return ids


def describe(document: dict[str, Any]) -> list[str]:
    """A table of the ways."""
    lines = [f"{document['parent']}, {document['tokens']} tokens, {document['threads']} threads"]
    lines += [f"a step of the draft takes {document['cost_of_a_step']:.2f} of the parent's"]
    for way, rate in document["tokens_per_second"].items():
        same = "" if document["same_text"].get(way, True) else "  ANOTHER TEXT"
        lines.append(f"{way:<12} {rate:>8.1f} tokens/s  {document['ratio'][way]:>6.2f} x{same}")
    return lines


if __name__ == "__main__":
    main()
