"""The README.md of a healed model's folder: what it is, how good, how to load it."""

from pathlib import Path

from nas.healing.record import FILE, Healed
from nas.quality.quality import Quality


def write_card(folder: Path, model: str, healed: Healed, unit: str) -> None:
    """Write the card.

    Args:
        folder: of the healed model.
        model: the parent, as the search names it.
        unit: what was seen in training: tokens or images.
    """
    metric = healed.healed.metric
    rows = [f"| {name} | {quality.value:.4f} | {_format_others(quality)} |" for name, quality in list_qualities(healed)]
    better = "higher" if healed.healed.higher_is_better else "lower"
    (folder / "README.md").write_text(f"""---
base_model: {model}
library_name: transformers
tags: [pruned, nas, distilled]
---

# {model}, pruned and healed

The winner of a search, trained for {healed.steps} steps ({healed.tokens_seen:,} {unit}) on the calibration split to
give what its parent gives. `{FILE}` has the recipe.

| | {metric} ({better} is better), test split | more |
|---|---|---|
{chr(10).join(rows)}

Load it with `nas.load("healed")`. The `.onnx` files were compared with it. They have the shapes of the winner's files;
the search's certificate is of those, so measure these before you rely on their latency.
""")


def list_qualities(healed: Healed) -> list[tuple[str, Quality]]:
    """What is known of the winner, in the order in which it was made better."""
    every = (("as dropped", healed.as_dropped), ("compensated", healed.compensated), ("healed", healed.healed))
    return [(name, quality) for name, quality in every if quality is not None]


def _format_others(quality: Quality) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in quality.others.items())
