"""One kind of picture: bars in groups."""

from collections.abc import Mapping, Sequence
from pathlib import Path

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#8A8A8A")


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], label: str, title: str, path: Path) -> None:
    """A group of bars per name, one bar per series."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(names))]
        drawn = axes.bar(places, values, width, color=_COLOURS[number], label=name)
        axes.bar_label(drawn, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
