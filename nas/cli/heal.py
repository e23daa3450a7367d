"""`nas heal`: train the winner of a search for a while to give what its parent gives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.healing.record import Healed

_HELP = """Train the winner of a search on the calibration data, so that it gives again what its parent gives.

The healed model is written to RESULT_DIR/healed. What was interrupted is continued by the same command.

Examples:

  nas heal nas-results/python-lm-host-0.6x

  nas heal nas-results/python-lm-host-0.6x --minutes 60 --train all

  nas heal nas-results/python-lm-host-0.6x --steps 500 --json
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("heal", help=_HELP)(heal)


def heal(
    folder: Annotated[Path, typer.Argument(metavar="RESULT_DIR", help="The result folder of a search.")],
    minutes: Annotated[float | None, typer.Option("--minutes", help="How long to train. Default: 10.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="How many steps to train, instead of minutes.")] = None,
    train: Annotated[
        str | None,
        typer.Option("--train", metavar="WHAT", help="projections+norms (default); lora: adapters; all: all weights."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="The highest. Default: 0.001; all: 0.0003.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the order of the data. Default: 0.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Where to train: auto (all CUDA devices where there are any, else the CPU; default), cpu, cuda, "
            "cuda:N or mps.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Heal, print how good the model was and is."""
    from nas.cli import console

    progress = console.begin("heal")
    import shlex

    from nas.healing.heal import heal as run
    from nas.healing.recipe import Recipe
    from nas.storage.disk_errors import write_failure
    from search_spaces.errors import Interrupted, NasError, WriteFailed

    named: dict[str, Any] = {
        "minutes": minutes, "steps": steps, "trained": train, "learning_rate": learning_rate, "seed": seed,
        "device": device,
    }  # fmt: skip
    given = {name: value for name, value in named.items() if value is not None}
    recipe = Recipe(**given) if given else None
    again = shlex.join(["nas", "heal", str(folder), *_list_flags(given)])
    try:
        healed = run(folder, recipe, progress)
    except KeyboardInterrupt:
        raise Interrupted(again) from None
    except Exception as error:
        reason = write_failure(error)
        if not reason or isinstance(error, NasError):
            raise
        raise WriteFailed(f"{reason}, then continue with: {again}") from None
    console.emit_json(healed.to_json()) if json else console.emit_text(_describe_healed(healed, folder))


def _list_flags(given: dict[str, Any]) -> list[str]:
    """The options as they were given."""
    names = {"trained": "train", "learning_rate": "learning-rate"}
    return [word for name, value in given.items() for word in (f"--{names.get(name, name)}", str(value))]


def _describe_healed(healed: "Healed", folder: Path) -> str:
    from nas.healing.card import list_qualities

    rows = []
    for name, quality in list_qualities(healed):
        more = ", ".join(f"{key} {value:.4f}" for key, value in quality.others.items())
        rows.append((name, f"{quality.metric} {quality.value:.4f}, {more} (test, {quality.items} items)"))
    comparison = healed.comparison
    low, high = comparison["interval"]
    interval = "" if low is None else f" (95 % interval {low:+.4f} to {high:+.4f})"
    differs = f"the loss differs by {comparison['difference']:+.4f}{interval}, {comparison['verdict']}"
    rows += [
        ("compared", f"with {comparison['against']}: {differs}"),
        ("trained", f"{healed.steps} of {healed.planned_steps} steps in {healed.seconds:.0f} s; kept are the weights "
                    f"of step {healed.best_step}"),
        ("result", str(folder / "healed")),
    ]  # fmt: skip
    return "\n".join(f"{name:<12} {words}" for name, words in rows)
