"""Heads other than a choice of one class: rerankers, regression, independent labels, classes of tokens.

The truth is worked out here from the models' plain outputs. What cannot be judged is refused.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from families import filled
from scipy.stats import spearmanr
from torch import Tensor

from nas.data.dataset import Dataset, Split
from nas.quality import choose_evaluator
from nas.quality.quality import Quality
from nas.quality.ranks import compute_rank_correlation
from nas.report import words
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Unit
from search_spaces.errors import ModelError

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SIZES, "vocab_size": 96, "max_position_embeddings": 64, "pad_token_id": 0}
IMAGE = {**SIZES, "image_size": 12, "patch_size": 4}


def bert(kind: str = "SequenceClassification", **more: Any) -> Any:
    return filled(lambda: getattr(hf, f"BertFor{kind}")(hf.BertConfig(**TEXT, **more)))


def llama(**more: Any) -> Any:
    return filled(lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT, num_key_value_heads=2, **more)))


def vit(**more: Any) -> Any:
    return filled(lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE, **more)))


def texts() -> Dataset:
    splits = {}
    for seed, name in enumerate(("calibration", "validation", "test")):
        ids = torch.randint(3, 96, (9, 14), generator=torch.Generator().manual_seed(seed))
        mask = torch.ones_like(ids)
        mask[::2, 10:] = 0
        splits[name] = Split(name, {"input_ids": ids * mask, "attention_mask": mask})
    return Dataset(**splits)


def images() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = {name: torch.randn(9, 3, 12, 12, generator=generator) for name in ("calibration", "validation", "test")}
    return Dataset(**{name: Split(name, {"pixel_values": each}) for name, each in pixels.items()})


def dropped(model: Any, *layers: int) -> Any:
    return prune(model, Architecture.parent(4).drop(*(Unit(layer, Kind.MLP) for layer in layers)))


@torch.no_grad()
def logits(model: Any, data: Dataset) -> Tensor:
    given: Tensor = model(**data.test.inputs).logits.double()
    return given


SCORERS = {
    "reranker": (lambda: bert(num_labels=1), texts),
    "reward model": (lambda: llama(num_labels=1), texts),
    "regression": (lambda: bert(num_labels=1, problem_type="regression"), texts),
    "two scores": (lambda: bert(num_labels=2, problem_type="regression"), texts),
    "image scorer": (lambda: vit(num_labels=1), images),
}
HEADS = {
    **SCORERS,
    "labels": (lambda: bert(num_labels=5, problem_type="multi_label_classification"), texts),
    "image labels": (lambda: vit(num_labels=5, problem_type="multi_label_classification"), images),
    "tokens": (lambda: bert("TokenClassification", num_labels=3), texts),
    "token scores": (lambda: bert("TokenClassification", num_labels=1), texts),
    "token labels": (
        lambda: bert("TokenClassification", num_labels=3, problem_type="multi_label_classification"),
        texts,
    ),
}


@pytest.mark.parametrize("name", SCORERS)
def test_scores_by_hand(name: str) -> None:
    """One output, through a softmax, is 1 whatever is pruned; its loss was 0 and its agreement 1."""
    make, data = SCORERS[name][0], SCORERS[name][1]()
    model = make()
    candidate = dropped(model, 1, 3)
    parent, own = logits(model, data), logits(candidate, data)
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    expected = ((own - parent) ** 2).mean(0) / parent.var(0, correction=0)
    ranks = [spearmanr(own[:, at], parent[:, at]).statistic for at in range(parent.shape[1])]
    assert (quality.metric, quality.higher_is_better) == ("relative_squared_error", False)
    assert quality.loss == quality.value == pytest.approx(float(expected.mean()), rel=1e-3)
    assert quality.loss > 0.01
    assert quality.others == {"spearman": pytest.approx(sum(ranks) / len(ranks), abs=1e-6)}


@pytest.mark.parametrize("name", ["labels", "image labels"])
def test_independent_labels_by_hand(name: str) -> None:
    make, data = HEADS[name][0], HEADS[name][1]()
    model = make()
    candidate = dropped(model, 1, 3)
    parent, own = logits(model, data), logits(candidate, data)
    p, q = (torch.distributions.Bernoulli(logits=each) for each in (parent, own))
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.metric == "label_kl"
    assert quality.loss == pytest.approx(float(torch.distributions.kl_divergence(p, q).mean()), rel=1e-3)
    assert quality.others["agreement"] == pytest.approx(float(((own > 0) == (parent > 0)).float().mean()))


def test_a_shift_that_a_softmax_does_not_see_turns_labels() -> None:
    model, data = HEADS["labels"][0](), texts()
    shifted = copy.deepcopy(model)
    with torch.no_grad():
        shifted.classifier.bias -= 2 * logits(model, data).median()
    quality = choose_evaluator(model, data).evaluate(shifted, "test")
    assert quality.loss > 0.01
    assert quality.others["agreement"] < 0.9


@torch.no_grad()
def test_classes_of_tokens_by_hand() -> None:
    model, data = HEADS["tokens"][0](), texts()
    candidate = dropped(model, 1, 3)
    p, q = (logits(m, data).log_softmax(-1) for m in (model, candidate))
    divergence, mask = (p.exp() * (p - q)).sum(-1), data.test.inputs["attention_mask"].bool()
    per_text = [row[real].mean() for row, real in zip(divergence, mask, strict=True)]
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.metric == "token_kl"
    assert quality.loss == pytest.approx(float(torch.stack(per_text).mean()), rel=1e-3)


@torch.no_grad()
def test_scores_of_tokens_by_hand() -> None:
    """One output per token, through a softmax, is 1 whatever is pruned."""
    model, data = HEADS["token scores"][0](), texts()
    candidate, mask = dropped(model, 1, 3), data.test.inputs["attention_mask"].bool()
    parent, own = (logits(m, data)[..., 0] for m in (model, candidate))
    error = (own - parent) ** 2 / parent[mask].var(correction=0)
    per_text = [row[real].mean() for row, real in zip(error, mask, strict=True)]
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.metric == "relative_squared_error"
    assert quality.loss == pytest.approx(float(torch.stack(per_text).mean()), rel=1e-3)
    assert quality.loss > 0.01
    ranks = spearmanr(own[mask], parent[mask]).statistic
    assert quality.others == {"spearman": pytest.approx(ranks, abs=1e-6)}


@torch.no_grad()
def test_labels_of_tokens_by_hand() -> None:
    model, data = HEADS["token labels"][0](), texts()
    candidate, mask = dropped(model, 1, 3), data.test.inputs["attention_mask"].bool()
    p, q = (torch.distributions.Bernoulli(logits=logits(m, data)) for m in (model, candidate))
    divergence = torch.distributions.kl_divergence(p, q).mean(-1)
    per_text = [row[real].mean() for row, real in zip(divergence, mask, strict=True)]
    quality = choose_evaluator(model, data).evaluate(candidate, "test")
    assert quality.metric == "label_kl"
    assert quality.loss == pytest.approx(float(torch.stack(per_text).mean()), rel=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_the_parent_is_perfect_and_parts_can_be_joined(name: str) -> None:
    """Halving judges some items first and the others later: together they are all."""
    make, data = HEADS[name][0], HEADS[name][1]()
    model = make()
    evaluator, candidate = choose_evaluator(model, data), dropped(model, 2)
    perfect = evaluator.evaluate(model, "test")
    assert perfect.loss == pytest.approx(0, abs=1e-9)
    assert set(perfect.others.values()) == {1.0}
    whole = evaluator.evaluate(candidate, "test")
    joined = evaluator.evaluate(candidate, "test", 4).join(evaluator.evaluate(candidate, "test", None, 4))
    assert joined.per_item == pytest.approx(whole.per_item, rel=1e-3, abs=1e-7)
    assert (joined.loss, joined.value) == pytest.approx((whole.loss, whole.value), rel=1e-3)
    if "agreement" in whole.others:
        assert joined.others["agreement"] == pytest.approx(whole.others["agreement"])
    assert Quality.from_json(whole.to_json()) == whole


def test_scores_that_are_all_alike_are_compared_by_their_size() -> None:
    model, data = bert(num_labels=1), texts()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.fill_(2.0)
    candidate = copy.deepcopy(model)
    with torch.no_grad():
        candidate.classifier.bias.fill_(3.0)
    assert choose_evaluator(model, data).evaluate(candidate, "test").loss == pytest.approx(0.25)  # 1² over 2²


def test_one_output_is_a_score_and_several_are_classes() -> None:
    for labels, metric in ((1, "relative_squared_error"), (2, "kl"), (5, "kl")):
        assert choose_evaluator(bert(num_labels=labels), texts()).metric == metric


UNKNOWN: dict[str, tuple[Callable[[], Any], Callable[[], Dataset], str]] = {
    "answers in a text": (lambda: bert("QuestionAnswering"), texts, "start_logits"),
    "several choices": (lambda: bert("MultipleChoice"), texts, "single texts"),
    "replaced tokens": (lambda: filled(lambda: hf.ElectraForPreTraining(hf.ElectraConfig(**TEXT))), texts, "logits"),
    "detection": (
        lambda: filled(lambda: hf.YolosForObjectDetection(hf.YolosConfig(**{**IMAGE, "image_size": [12, 12]}))),
        images,
        "pred_boxes",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_head_of_which_nothing_is_known_is_refused(name: str) -> None:
    make, data, word = UNKNOWN[name]
    with pytest.raises(ModelError, match=word) as refused:
        choose_evaluator(make(), data())
    assert "\n" not in str(refused.value)
    assert "give a" in str(refused.value)


@pytest.mark.parametrize("kind", ["SequenceClassification", "MaskedLM"])
def test_a_parent_that_gives_no_numbers_is_refused(kind: str) -> None:
    """Every comparison with NaN is false: any candidate would do as well as another."""
    model = bert(kind)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] = torch.nan
    with pytest.raises(ModelError, match="no numbers"):
        choose_evaluator(model, texts())


def test_a_candidate_with_other_outputs_is_refused() -> None:
    """Scores (n, 1) and (n, 3) would be compared by broadcasting."""
    with pytest.raises(ModelError, match=r"\(3,\) outputs for an item and its parent \(1,\)"):
        choose_evaluator(bert(num_labels=1), texts()).evaluate(bert(num_labels=3), "test")


@torch.no_grad()
def test_a_model_that_gives_vectors_of_its_own_is_judged_by_these() -> None:
    """A projection behind the pooled image, as CLIP has it: no state of a token is looked at."""
    config = hf.CLIPVisionConfig(**IMAGE, projection_dim=16)
    model, data = filled(lambda: hf.CLIPVisionModelWithProjection(config)), images()
    candidate = dropped(model, 1, 3)
    one, other = (m(**data.test.inputs).image_embeds.double() for m in (model, candidate))
    evaluator = choose_evaluator(model, data)
    quality = evaluator.evaluate(candidate, "test")
    assert quality.value == pytest.approx(float(torch.cosine_similarity(one, other).mean()), abs=1e-5)
    assert evaluator.words == "embeddings (the vectors that the model gives)"


def test_rank_correlation_at_its_edges() -> None:
    one, other = torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert compute_rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    flat, bad = torch.ones(4), torch.tensor([1.0, float("nan"), 2.0, 3.0])
    assert [compute_rank_correlation(*pair) for pair in ((one, flat), (flat, one), (bad, one))] == [1.0, 0.0, 0.0]
    assert compute_rank_correlation(one[:2], other[:2]) == 1.0


@pytest.mark.parametrize("name", HEADS)
def test_reports_have_words_for_the_measure_and_for_what_is_minimised(name: str) -> None:
    make, data = HEADS[name][0], HEADS[name][1]()
    quality = choose_evaluator(make(), data).evaluate(make(), "test")
    for key in (quality.metric, *quality.others):
        assert words.name_metric(key) != key.replace("_", " ")
    assert words.name_loss(quality.metric) == words.name_metric(quality.metric)  # the metric is the loss itself
    assert not quality.higher_is_better
