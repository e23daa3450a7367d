"""HAT's public measurements of encoder-decoder transformers: how far 20 samples carry.

2,000 random architectures per set (Wang et al. 2020, github.com/mit-han-lab/hardware-aware-transformers, MIT
licence), the time of translating one sentence of 30 tokens, greedy. The terms follow from the architecture alone.
"""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.accuracy import Accuracy, format_markdown
from latency_models.regression import Regression

SETS = {  # file: (mean error that is to be matched, in per cent, from 20 samples)
    "iwslt14deen_gpu_titanxp": 7.2,
    "wmt14enfr_cpu_raspberrypi": 0.7,
    "wmt14enfr_cpu_xeon": 4.6,
    "wmt14enfr_gpu_titanxp": 2.0,
}
SLACK = 0.3  # points
SAMPLES, HELD_OUT = 20, 500
TOKENS, INNER = 30, 512  # of a sentence; width of queries, keys and values, fixed in HAT's space
Columns = dict[str, NDArray[np.float64]]


def read(path: Path) -> Columns:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def compute_terms(columns: Columns) -> NDArray[np.float64]:
    """Multiply-adds of encoder, decoder, cross-attention and vocabulary, the number of decoder layers, a constant."""
    encoder, decoder = columns["encoder_embed_dim"], columns["decoder_embed_dim"]
    layers, attended = columns["decoder_layer_num"], columns["decoder_arbitrary_ende_attn_avg"]
    mlp = 2 * encoder * columns["encoder_ffn_embed_dim_avg"], 2 * decoder * columns["decoder_ffn_embed_dim_avg"]
    pairs = TOKENS * TOKENS * INNER
    whole = columns["encoder_layer_num"] * (TOKENS * (4 * encoder * INNER + mlp[0]) + 2 * pairs)
    steps = layers * (TOKENS * (4 * decoder * INNER + mlp[1]) + pairs)  # causal: half of the pairs
    cross = layers * (TOKENS * 2 * decoder * INNER + attended * (TOKENS * 2 * encoder * INNER + 2 * pairs))
    return np.stack([np.ones_like(layers), whole, steps, cross, TOKENS * decoder, layers], axis=1)


def evaluate(rows: NDArray[np.float64], measured: NDArray[np.float64], seed: int) -> Accuracy:
    """Fit to 20 of them, predict 500 others."""
    order = np.random.default_rng(seed).permutation(len(measured))
    known, unseen = order[:SAMPLES], order[SAMPLES : SAMPLES + HELD_OUT]
    fitted = Regression.fit(rows[known], measured[known])
    predicted = np.array([fitted.predict(row) for row in rows[unseen]])
    low, high = np.array([fitted.predict_interval(row) for row in rows[unseen]]).T
    return Accuracy.of(predicted, low, high, measured[unseen])


def run(data: Path, seeds: int) -> dict[str, Any]:
    """Every set, averaged over seeds."""
    results = {}
    for name, bar in SETS.items():
        columns = read(data / f"{name}_all.csv")
        measured = columns["latency_mean_encoder"] + columns["latency_mean_decoder"]
        rows = compute_terms(columns)
        several = [evaluate(rows / rows.mean(0), measured, seed) for seed in range(seeds)]
        spread = float(np.std([one.mape for one in several], ddof=1) / np.sqrt(seeds))
        results[name] = {"bar": bar / 100, "standard_error": spread, **asdict(Accuracy.average(several))}
    return {"samples": SAMPLES, "held_out": HELD_OUT, "seeds": seeds, "sets": results}


def format_table(document: dict[str, Any]) -> str:
    header = ("set", "MAPE", "reference", "within 10 %", "Spearman", "coverage of 90 %", "half width", "bar")
    rows = []
    for name, one in document["sets"].items():
        met = one["mape"] <= one["bar"] + SLACK / 100 and 0.87 <= one["coverage"] <= 0.95
        rows.append((
            name, f"{100 * one['mape']:.2f} ± {100 * one['standard_error']:.2f} %", f"{100 * one['bar']:.1f} %",
            f"{100 * one['within']:.1f} %", f"{one['spearman']:.3f}", f"{100 * one['coverage']:.1f} %",
            f"{100 * one['half_width']:.1f} %", "met" if met else "missed",
        ))  # fmt: skip
    return format_markdown(header, rows)


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """Mean error per set beside the reference."""
    from latency.drawing import draw_bars

    names = [name.replace("_", "\n", 1) for name in document["sets"]]
    series = {
        "20 samples": [100 * one["mape"] for one in document["sets"].values()],
        "reference, 20 samples": [100 * one["bar"] for one in document["sets"].values()],
    }
    draw_bars(names, series, "mean absolute error, % (500 held out)", "HAT's measurements: error from 20 samples", path)
