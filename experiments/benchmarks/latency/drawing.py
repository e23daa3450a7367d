"""Pictures of the latency benchmark: bars in groups, and measured over predicted."""

from collections.abc import Mapping, Sequence
from pathlib import Path

_LABELLED = 10  # groups at most whose bars carry their value
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A")


def draw_bars(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str, title: str, path: Path) -> None:
    """A group of bars per name, one bar per series."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        centres = [group + (number - (len(series) - 1) / 2) * width for group in range(len(names))]
        drawn = axes.bar(centres, values, width, color=_COLOURS[number], label=name)
        if len(names) <= _LABELLED:
            axes.bar_label(drawn, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_scatters(pairs: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """A panel per name of (predicted, measured) ms, with the diagonal and 10 % on both sides of it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.4 * rows), layout="constrained", squeeze=False
    )
    for axes in panels.flat[len(pairs) :]:
        axes.set_visible(False)
    for axes, (name, values) in zip(panels.flat, pairs.items(), strict=False):
        upper = 1.05 * max(max(pair) for pair in values)
        axes.fill_between([0, upper], [0, 0.9 * upper], [0, 1.1 * upper], color="#E8E8E8", linewidth=0)
        axes.plot([0, upper], [0, upper], color="#8A8A8A", linewidth=0.8)
        axes.scatter([p for p, _ in values], [m for _, m in values], s=12, color=_COLOURS[0])
        axes.set(xlim=(0, upper), ylim=(0, upper), xlabel="predicted, ms", ylabel="measured, ms")
        axes.set_title(name, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
