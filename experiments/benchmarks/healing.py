"""What compensation is worth to healing: the same architecture trained from its plain and from its compensated weights.

    nas search --target jetson-orin --budget 20ms --out winner
    python experiments/benchmarks/healing.py run winner --steps 400 --out healing.json
    python experiments/benchmarks/healing.py report healing.json [--figure healing.png]

Both starts are trained by the usual recipe for the same number of steps, and the compensated one for half of them too:
the learning rate falls to zero at the end of each run, so a point in the middle of a longer run is no fair one. The
curves are losses on the validation split; the last model of each run is judged on the test split.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from compensation import describe_processor

from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState
from nas.healing.student import Student
from nas.healing.winner import load_winner
from nas.progress import Silent
from nas.storage.result_folder import read_result
from pruning.surgery.prune import prune

EVALUATIONS = 20  # of the longest run
PLAIN, COMPENSATED = "plain", "compensated"


def run(folder: Path, steps: int, out: Path) -> None:
    """The runs that are not in the file yet, each written when it ends."""
    winner = load_winner(folder, read_result(folder))
    document = json.loads(out.read_text()) if out.exists() else {"model": winner.parent.id, "runs": {}}
    document |= {"words": winner.architecture.words, "processor": describe_processor()}
    for start, length in ((PLAIN, steps), (COMPENSATED, steps), (COMPENSATED, steps // 2)):
        name = f"{start}/{length}"
        if name not in document["runs"]:
            recipe = Recipe(steps=length, evaluate_every=max(1, steps // EVALUATIONS), patience=EVALUATIONS)
            student = load_winner(folder, read_result(folder)).build_student(recipe)  # a run changes its weights
            if start == PLAIN:
                model = prune(winner.parent.model, winner.architecture, anatomy=winner.parent.anatomy)
                student = replace(student, model=model)
            document["runs"][name] = train(student, recipe)
            out.write_text(json.dumps(document, indent=1) + "\n")
            print(name, document["runs"][name], flush=True)


def train(student: Student, recipe: Recipe) -> dict[str, Any]:
    """The curve of one run, and what its best model is worth on the test split."""
    before = student.evaluator.evaluate(student.model, "test")
    assert recipe.steps is not None
    with tempfile.TemporaryDirectory() as name:
        training = student.build_training(recipe, Path(name) / "state.pt", {})
        state = training.run(TrainingState(recipe.steps), Silent())
    after = student.evaluator.evaluate(training.weights.finish(), "test")
    return {
        "curve": state.history,
        "tokens_per_step": round(state.tokens / state.done),
        "seconds": round(state.seconds, 1),
        "before": {"loss": before.loss, **before.others},
        "after": {"loss": after.loss, **after.others},
    }


def report(file: Path) -> None:
    """Markdown: a row a run, and the steps of the compensated run that reach what the plain one ends with."""
    document = json.loads(file.read_text())
    print(f"\n{document['model']}, {document['words']} ({document['processor']})\n")
    print("| start | steps | tokens | validation loss | test loss before | test loss after | minutes |")
    print("|---|---|---|---|---|---|---|")
    for name, each in document["runs"].items():
        start, steps = name.split("/")
        tokens, best = int(steps) * each["tokens_per_step"], min(loss for _, loss in each["curve"])
        losses = f"{best:.4f} | {each['before']['loss']:.4f} | {each['after']['loss']:.4f}"
        print(f"| {start} | {steps} | {tokens:,} | {losses} | {each['seconds'] / 60:.1f} |")
    plain = next(each for name, each in document["runs"].items() if name.startswith(PLAIN))
    wanted = min(loss for _, loss in plain["curve"])
    for name, each in document["runs"].items():
        if name.startswith(COMPENSATED):
            reached = next((step for step, loss in each["curve"] if loss <= wanted), None)
            print(f"\n{name} reaches the plain run's {wanted:.4f} " + (f"at step {reached}." if reached else "never."))


def draw(file: Path, out: Path) -> None:
    """Validation loss over the tokens that were trained on."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    document = json.loads(file.read_text())
    picture, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for name, each in document["runs"].items():
        start, steps = name.split("/")
        millions = [step * each["tokens_per_step"] / 1e6 for step, _ in each["curve"]]
        axes.plot(millions, [loss for _, loss in each["curve"]], marker="o", ms=3, label=f"{start}, {steps} steps")
    axes.set(xlabel="tokens trained on, millions", ylabel="validation loss (KL, lower is better)", yscale="log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    picture.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("path", type=Path, help="of run: a result folder; of report: what run wrote")
    parser.add_argument("--steps", type=int, default=400, help="of the longer runs")
    parser.add_argument("--out", type=Path, default=Path("healing.json"))
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    if options.verb == "run":
        run(options.path, options.steps, options.out)
        return
    report(options.path)
    if options.figure:
        draw(options.path, options.figure)


if __name__ == "__main__":
    main()
