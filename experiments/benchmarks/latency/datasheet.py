"""Published latencies of transformers beside what their device's data sheet alone predicts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency.accuracy import format_markdown
from latency_models.datasheet_model import UNCERTAINTY, DataSheetModel
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.workload import Workload
from search_spaces.architecture import Architecture

NANO, SUPER = "jetson-orin-nano-8gb@15w/fp16", "jetson-orin-nano-8gb@maxn-super/fp16"
FOUR_BITS = 0.5625 / 2  # bytes of a 4-bit weight with its scales over those of fp16


@dataclass(frozen=True)
class Published:
    """`scale` brings the predicted precision to the published one where no target has it."""

    model: str
    target: str
    shape: ModelShape
    workload: str
    ms: float
    source: str
    scale: float = 1.0


def _build_encoder(depth: int, hidden: int, heads: int, width: int) -> ModelShape:
    return ModelShape(depth, hidden, heads, heads, hidden // heads, width, False, 0, False, False, 0, (None,) * depth)


def _build_decoder(
    depth: int, hidden: int, heads: int, kv_heads: int, head: int, width: int, vocabulary: int
) -> ModelShape:
    return ModelShape(
        depth, hidden, heads, kv_heads, head, width, True, vocabulary, True, True, 0, (None,) * depth
    )  # fmt: skip


_BERT, _VIT = _build_encoder(24, 1024, 16, 4096), _build_encoder(12, 768, 12, 3072)
_LLAMA_8B, _LLAMA_3B = (
    _build_decoder(32, 4096, 32, 8, 128, 14336, 128256),
    _build_decoder(28, 3072, 24, 8, 128, 8192, 128256),
)
_QWEN_7B = _build_decoder(28, 3584, 28, 4, 128, 18944, 152064)
_MLPERF, _LAB = "MLPerf Inference v3.1, slowest sample", "Jetson AI Lab"
_DECODE = "decode:batch=1,past=128"

ROWS = (
    Published("BERT-large int8", "jetson-agx-orin-64gb@maxn/int8", _BERT, "forward:seq=384", 6.49, _MLPERF),
    Published("BERT-large int8", "jetson-orin-nx-16gb@maxn/int8", _BERT, "forward:seq=384", 16.81, _MLPERF),
    Published("BERT-large int8", "l4/int8", _BERT, "forward:seq=384", 3.90, _MLPERF),
    *(Published(f"{name} fp16", target, _VIT, f"forward:seq={tokens}", 1e3 / per_second, _LAB)
      for name, tokens, pair in (("ViT-B/16", 197, (98, 158)), ("DINOv2-B/14", 257, (75, 126)),
                                 ("CLIP-B/16 image tower", 197, (95, 161)), ("ViT-B/32", 50, (171, 273)),
                                 ("CLIP-B/32 image tower", 50, (196, 314)))
      for target, per_second in zip((NANO, SUPER), pair, strict=True)),
    *(Published(f"{name} 4-bit, decode", target, shape, _DECODE, 1e3 / per_second, _LAB, FOUR_BITS)
      for name, shape, pair in (("Llama-3.1-8B", _LLAMA_8B, (14.0, 19.14)), ("Llama-3.2-3B", _LLAMA_3B, (27.7, 43.07)),
                                ("Qwen2.5-7B", _QWEN_7B, (14.2, 21.75)))
      for target, per_second in zip((NANO, SUPER), pair, strict=True)),
)  # fmt: skip


def run() -> dict[str, Any]:
    """Every row: published, predicted, and their ratio."""
    rows = []
    for row in ROWS:
        model = DataSheetModel(find_target(row.target), row.shape, Workload.parse(row.workload))
        predicted = model.predict(Architecture.parent(row.shape.depth)).ms * row.scale
        rows.append({
            "model": row.model, "target": row.target, "published_ms": row.ms, "predicted_ms": predicted,
            "ratio": predicted / row.ms, "source": row.source,
        })  # fmt: skip
    return {"rows": rows, "within": sum(1 / UNCERTAINTY <= row["ratio"] <= UNCERTAINTY for row in rows)}


def format_table(document: dict[str, Any]) -> str:
    rows = [
        (f"{row['model']} on {row['target']} ({row['source']})", f"{row['published_ms']:.2f}",
         f"{row['predicted_ms']:.2f}", f"{row['ratio']:.2f} ×")
        for row in document["rows"]
    ]  # fmt: skip
    counted = f"{document['within']} of {len(rows)} within a factor of {UNCERTAINTY:.0f}"
    return format_markdown(("published", "ms", "predicted ms", "ratio"), rows) + f"\n\n{counted}"


def draw_figure(document: dict[str, Any], path: Path) -> None:
    """Predicted over published, one bar per row."""
    from latency.drawing import draw_bars

    names = [str(number) for number in range(1, len(document["rows"]) + 1)]
    ratios = [row["ratio"] for row in document["rows"]]
    draw_bars(names, {"predicted over published": ratios}, "ratio", "Data sheets against published latencies", path)
