"""The loss that is trained on equals what is worked out by hand."""

from dataclasses import replace

import pytest
import torch
from families import example
from healing_case import Case
from torch import Tensor

from nas.data.dataset import Dataset, Split
from nas.healing.items import Batch
from nas.healing.outputs import LIKELIEST, compute_divergence, compute_relative_distance, find_output_loss
from nas.healing.teacher import join_teacher_outputs
from nas.quality.prompt import PromptEvaluator
from nas.quality.scores import ScoreEvaluator
from search_spaces import Architecture, Reduction, Schedule
from search_spaces.errors import ModelError
from search_spaces.schedule import Scorer


def kl(own: Tensor, parent: Tensor) -> Tensor:
    p, q = parent.double().softmax(-1), own.double().softmax(-1)
    return (p * (p / q).log()).sum(-1)


def streams(model, stack: str, inputs) -> list[Tensor]:
    """What enters each block, and what leaves the last."""
    found: list[Tensor] = []
    blocks = model.get_submodule(stack)
    handles = [block.register_forward_pre_hook(lambda _, args: found.append(args[0])) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(lambda _, args, out: found.append(out)))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def relative(own: Tensor, wanted: Tensor) -> float:
    return float(((own - wanted) ** 2).double().mean() / (wanted**2).double().mean())


def test_a_decoders_loss_is_that_of_all_tokens_and_of_the_stream_between_kept_blocks() -> None:
    case = Case("llama")
    inputs = case.batch().inputs
    with torch.no_grad():
        outputs = kl(*(model(**inputs).logits for model in (case.model, case.parent))).mean()
    own, its = (streams(model, case.anatomy.stack, inputs) for model in (case.model, case.parent))
    # Blocks 0, 2 and 3 are left: the stream before 2, before 3 and at the end.
    states = [relative(own[1], its[2]), relative(own[2], its[3]), relative(own[3], its[4])]
    assert min(states) > 0
    loss = case.loss(0.5)(case.batch())
    assert loss.item() == pytest.approx(float(outputs) + 0.5 * sum(states) / 3, rel=1e-4)


def test_padding_counts_neither_in_the_embedding_nor_in_the_stream() -> None:
    case = Case("roberta")
    inputs = case.batch().inputs
    real = inputs["attention_mask"].bool()
    assert not real.all()
    with torch.no_grad():
        texts = [
            torch.stack([states[mask].mean(0) for states, mask in zip(model(**inputs)[0], real, strict=True)])
            for model in (case.model, case.parent)
        ]
    distance = 1 - torch.cosine_similarity(*texts).mean()
    own, its = (streams(model, case.anatomy.stack, inputs) for model in (case.model, case.parent))
    positions = ((1, 2), (2, 3), (3, 4))
    states = [relative(own[here][real], its[there][real]) for here, there in positions]
    assert case.loss()(case.batch()).item() == pytest.approx(float(distance) + sum(states) / 3, rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "roberta", "vit", "bert"])
def test_the_outputs_are_compared_as_the_evaluator_compares_them(family: str) -> None:
    case = Case(family)
    expected = case.evaluator.evaluate(case.model, "calibration").loss
    with torch.no_grad():
        assert float(case.loss(0.0)(case.batch(12))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "roberta", "vit"])
def test_the_parent_itself_has_no_loss(family: str) -> None:
    case = Case(family, architecture=Architecture(4))
    with torch.no_grad():
        assert float(case.loss()(case.batch())) == pytest.approx(0.0, abs=1e-5)  # the stream is kept in bf16


@pytest.mark.parametrize(("family", "scorer"), [("llama", Scorer.LAST), ("vit", Scorer.CLASS)])
def test_where_tokens_are_dropped_those_that_are_left_are_compared(
    family: str, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but tokens is dropped, before block 2: until there the stream of those that are left is the parent's."""
    schedule = Schedule.parse("2=0.5", Reduction(scorer))
    case = Case(family, architecture=Architecture(4).replace_tokens(schedule))
    if family == "llama":
        case.evaluator = PromptEvaluator(case.parent, case.data)
    pairs: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr("nas.healing.loss.compute_relative_error", lambda *pair: pairs.append(pair) or torch.zeros(()))
    inputs = example(case.parent, batch=4, tokens=60)  # of few tokens of a prompt all stay
    with torch.no_grad():
        assert case.loss()(Batch(torch.arange(4), inputs)).item() > 0
    assert all(own.shape == wanted.shape for own, wanted in pairs)
    assert [torch.allclose(own, wanted, rtol=1e-2) for own, wanted in pairs] == [True, True, False, False]
    tokens = [len(own) for own, _ in pairs]
    assert tokens[0] > tokens[1] == tokens[2] == tokens[3]


def test_of_many_outcomes_the_likeliest_512_are_told_apart_and_the_rest_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    own, parent = (3 * torch.randn(2, 9000, generator=generator) for _ in range(2))
    p, q = parent.double().softmax(-1), own.double().softmax(-1)
    top = p.topk(512).indices
    head, other = p.gather(1, top), q.gather(1, top)
    rest = [1 - each.sum(-1, keepdim=True) for each in (head, other)]
    p, q = torch.cat([head, rest[0]], 1), torch.cat([other, rest[1]], 1)
    assert compute_divergence(own, parent).tolist() == pytest.approx((p * (p / q).log()).sum(-1).tolist(), rel=1e-4)


def test_the_gradient_of_the_divergence_is_the_difference_of_the_probabilities() -> None:
    own, parent = torch.randn(3, 7, requires_grad=True), torch.randn(3, 7)
    compute_divergence(own, parent).sum().backward()
    assert own.grad is not None
    assert torch.allclose(own.grad, own.detach().softmax(-1) - parent.softmax(-1), atol=1e-6)


def test_lengths_of_embeddings_that_are_compared_by_them_count() -> None:
    own, parent = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    assert compute_relative_distance(own, parent).tolist() == pytest.approx([1 / 8])


def test_a_head_without_a_training_loss_is_refused() -> None:
    case = Case("vit")
    splits = {name: Split(name, case.data.get_split(name).inputs) for name in ("calibration", "validation", "test")}
    with pytest.raises(ModelError, match="relative_squared_error"):
        find_output_loss(ScoreEvaluator(case.parent, Dataset(**splits)), case.parent)


def test_what_a_parent_gave_once_is_what_it_gives_again_item_by_item() -> None:
    case = Case("llama")
    teacher = case.loss().teacher
    first, whole = teacher.compute_outputs(case.batch(4)), teacher.compute_outputs(case.batch(6))
    kept = teacher.compute_outputs(
        Batch(torch.tensor([5, 0]), {"input_ids": torch.empty(2, 0)})
    )  # nothing to compute it from
    assert torch.equal(kept.rows, torch.stack([whole.rows[5], first.rows[0]]))
    assert kept.streams.keys() == {2, 3, 4}
    assert all(
        torch.equal(kept.streams[at], torch.stack([whole.streams[at][5], first.streams[at][0]])) for at in (2, 4)
    )
    assert torch.equal(join_teacher_outputs([first.take(1), first.take(3)]).rows, first.rows[[1, 3]])


def test_what_does_not_fit_in_memory_is_computed_again() -> None:
    case = Case("llama")
    teacher = case.loss().teacher
    whole = teacher.compute_outputs(case.batch(6))
    teacher.capacity = 2 * whole.take(0).nbytes
    teacher._kept.clear()
    teacher._nbytes = 0
    assert torch.equal(teacher.compute_outputs(case.batch(6)).rows, whole.rows)
    assert sorted(teacher._kept) == [0, 1]
    assert torch.equal(teacher.compute_outputs(case.batch(6)).rows, whole.rows)


def test_of_a_large_vocabulary_the_parents_likeliest_outcomes_are_kept() -> None:
    case = Case("llama")
    logits = 3 * torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0))
    teacher = case.loss().teacher
    teacher.outputs = replace(teacher.outputs, run=lambda model, inputs: logits)
    teacher.layers = frozenset()
    outputs = teacher.compute_outputs(case.batch(2))
    p, own = logits.double().softmax(-1).flatten(0, 1), 3 * torch.randn(6, 500, dtype=torch.double)
    top = p.topk(LIKELIEST).indices
    q = own.softmax(-1)
    head, other = p.gather(1, top), q.gather(1, top)
    rest = [1 - each.sum(-1, keepdim=True) for each in (head, other)]
    p, q = torch.cat([head, rest[0]], 1), torch.cat([other, rest[1]], 1)
    found = outputs.read_distribution().compute_divergence(own.float())
    assert found.tolist() == pytest.approx((p * (p / q).log()).sum(-1).tolist(), rel=2e-3)
