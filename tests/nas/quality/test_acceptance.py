"""Acceptance is the share of tokens of a text that are the parent's, counted one after another."""

import pytest
import torch
from families import build

from nas.data.dataset import Dataset, Split
from nas.quality.acceptance import AcceptanceEvaluator
from pruning.surgery.prune import prune
from search_spaces import Architecture

IDS = torch.randint(3, 96, (6, 9), generator=torch.Generator().manual_seed(0))
DATA = Dataset(*(Split(name, {"input_ids": IDS}) for name in ("calibration", "validation", "test")))


@torch.no_grad()
def test_every_position_is_counted() -> None:
    parent = build("llama")
    draft = prune(parent, Architecture.from_words("attn+mlp mlp attn+mlp removed"))
    same = []
    for row in IDS:
        pairs = [
            [model(input_ids=row[None, :end]).logits[0, -1].argmax() for model in (draft, parent)]
            for end in range(1, 10)
        ]
        same.append([bool(own == its) for own, its in pairs])
    evaluator = AcceptanceEvaluator(parent, DATA)
    quality = evaluator.evaluate(draft)
    assert 0 < quality.value < 1
    assert quality.value == pytest.approx(sum(map(sum, same)) / 54)
    assert quality.loss == pytest.approx(1 - quality.value)
    assert quality.per_item == pytest.approx([1 - sum(row) / 9 for row in same])
    parts = evaluator.evaluate(draft, items=4).join(evaluator.evaluate(draft, start=4))
    assert (parts.value, parts.items, parts.per_item) == (pytest.approx(quality.value), 6, quality.per_item)
    assert evaluator.evaluate(parent, "test").value == 1.0
