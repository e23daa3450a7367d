"""The accounting of token reduction: the four published figures, and what the models themselves count."""

import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import Schedule

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "benchmarks" / "tokens"))

import accounting

LLAVA, NEXT = accounting.MODELS


def counted(model: torch.nn.Module, **inputs: torch.Tensor) -> float:
    """Multiply-adds of a forward pass, counted operation by operation."""
    with FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("model", "schedule", "published"),
    [
        (LLAVA, Schedule(), 3.82),
        (LLAVA, accounting.PUBLISHED, 1.777),
        (NEXT, Schedule(), 20.83),
        (NEXT, accounting.PUBLISHED, 9.465),
    ],
)
def test_the_published_figures(model: accounting.Llava, schedule: Schedule, published: float) -> None:
    figure = accounting.count_image_only(model, schedule) / accounting.TERA
    assert figure == pytest.approx(published, abs=0.006 if published in (3.82, 20.83) else 0.0006)


def test_a_prefill_is_what_the_language_model_counts() -> None:
    """Without a schedule: the same sizes as a real model without memory, dense, eager, head for the last token."""
    stack = accounting.VICUNA_7B
    config = hf.LlamaConfig(hidden_size=stack.width, intermediate_size=stack.inner, num_hidden_layers=stack.depth)
    with torch.device("meta"):
        config._attn_implementation = "eager"
        ids = torch.zeros(1, LLAVA.image_tokens + 60, dtype=torch.long)
        mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])  # made by hand: making it would look at values
        model = hf.LlamaForCausalLM(config)
        whole = counted(model, input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    rotary = whole - accounting.count_prefill(LLAVA, Schedule(), 60)
    assert 0 <= rotary < 1e-5 * whole  # the table of angles is a product, too


def test_the_tower_is_what_clip_counts() -> None:
    config = hf.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=LLAVA.tower.depth,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with torch.device("meta"):
        config._attn_implementation = "eager"
        tower = counted(hf.CLIPVisionModel(config), pixel_values=torch.zeros(1, 3, 336, 336))
    projector = 576 * (1024 * 4096 + 4096 * 4096)
    assert accounting.count_vision(LLAVA) == tower + projector
    assert accounting.count_vision(NEXT) == 5 * (tower + projector)


def test_a_decode_step_sees_the_shorter_caches() -> None:
    """One step by hand: the saving is two products with what is no longer in the caches."""
    off, on = (accounting.decode(LLAVA, s, 60, 2) for s in (Schedule(), accounting.PUBLISHED))
    dropped = 8 * (288 + 432 + 504)
    assert off - on == 2 * dropped * 4096
    assert accounting.decode(LLAVA, Schedule(), 60, 1) == 0


def test_ranking_by_hand() -> None:
    seen, d = (576 + 60, 288 + 60, 144 + 60), 4096
    ours = sum(n * d * d + d * d + n * d for n in seen)
    theirs = sum(3 * n * d * d + n * n * d for n in seen)
    assert accounting.count_ranking(LLAVA, accounting.PUBLISHED, 60, released=False) == ours
    assert accounting.count_ranking(LLAVA, accounting.PUBLISHED, 60, released=True) == theirs


def test_it_prints_both_models(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["accounting.py"])
    accounting.main()
    out = capsys.readouterr().out
    assert "| image tokens only (as published) | 3.817 | 1.777 |" in out
    assert "| image tokens only (as published) | 20.825 | 9.465 |" in out
