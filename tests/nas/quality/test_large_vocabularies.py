"""Logits of large vocabularies are never there for many windows at once; what the parent predicts is kept."""

import pytest
import torch
from families import build, example

from nas.data.dataset import Dataset, Split
from nas.quality import distribution, language
from nas.quality.language import LanguageEvaluator
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit


@pytest.mark.parametrize(("logits", "windows"), [(1 << 26, 4), (2 * 16 * 96, 2), (1, 1)])
def test_as_many_windows_run_together_as_their_logits_allow(logits, windows, monkeypatch):
    model = build("llama")
    split = Split("validation", {"input_ids": example(model, batch=9, tokens=16)["input_ids"]})
    candidate = prune(model, Architecture.parent(4).drop(Unit(1, Kind.MLP)))
    expected = LanguageEvaluator(model, Dataset(split, split, split)).evaluate(candidate)
    monkeypatch.setattr(language, "_LOGITS", logits)
    seen = []
    candidate.lm_head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    quality = LanguageEvaluator(model, Dataset(split, split, split)).evaluate(candidate)
    assert max(seen) == windows
    assert quality.loss == pytest.approx(expected.loss, rel=1e-5)
    torch.testing.assert_close(torch.tensor(quality.per_item), torch.tensor(expected.per_item))


def test_what_a_parent_of_a_large_vocabulary_predicts_is_kept_and_its_damage_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(distribution, "_FULL_UP_TO", 32)
    monkeypatch.setattr(distribution, "TOP", 8)
    model = build("llama")
    split = Split("validation", {"input_ids": example(model, batch=5, tokens=16)["input_ids"]})
    candidate = prune(model, Architecture.parent(4).drop(Unit(1, Kind.MLP)))
    data, calls = Dataset(split, split, split), []
    model.register_forward_hook(lambda *_: calls.append(1))
    first = LanguageEvaluator(model, data, tmp_path).evaluate(candidate)
    computed, (file,) = len(calls), tmp_path.iterdir()
    assert computed
    assert 5 * 16 * (8 * 8 + 4) <= file.stat().st_size < 5 * 16 * (8 * 8 + 4) + 1000
    assert LanguageEvaluator(model, data, tmp_path).evaluate(candidate) == first
    assert len(calls) == computed
    file.write_bytes(b"damaged")
    assert LanguageEvaluator(model, data, tmp_path).evaluate(candidate) == first
    assert len(calls) == 2 * computed


def test_nothing_is_kept_of_a_small_vocabulary(tmp_path):
    model = build("llama")
    split = Split("validation", {"input_ids": example(model, batch=2, tokens=16)["input_ids"]})
    LanguageEvaluator(model, Dataset(split, split, split), tmp_path).evaluate(model)
    assert not list(tmp_path.iterdir())
