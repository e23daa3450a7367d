"""Windows of attention are judged on texts that are as long as the workload."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from reading_parent import make_reading_parent
from test_certificate import certificate

from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.parent.parent import ParentModel
from nas.request.choices import OFF, SEARCH
from nas.tokens.space import add_tokens, build_candidate_evaluator, build_evaluator_of_space
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import BadData, UsageError

UNITS = ("attention", "attention-window")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> ParentModel:
    """A tiny decoder of 64 positions with random words to read."""
    return make_reading_parent(tmp_path_factory.mktemp("models"), blocks=2)


def count_tokens(evaluator) -> int:
    return evaluator.dataset.validation.inputs["input_ids"].shape[1]


def test_texts_are_as_long_as_a_sequence_at_the_end_of_the_workload(parent: ParentModel) -> None:
    space, plain = parent.anatomy.build_space(UNITS), parent.anatomy.build_space(("attention",))
    workload = Workload.parse("decode:batch=2,past=40")
    evaluator = build_evaluator_of_space(parent, workload, OFF, space)
    assert count_tokens(evaluator) == 41
    assert count_tokens(build_evaluator_of_space(parent, workload, OFF, plain)) == 64
    losses = [
        evaluator.evaluate(prune(parent.model, Architecture(2, frozenset({Choice.parse(f"attention.1:window={size}")}),
                                                            ), anatomy=parent.anatomy)).loss
        for size in (4, 16, 64)
    ]  # fmt: skip
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 1e-9


def test_a_workload_that_is_longer_than_the_model_reads_is_refused(parent: ParentModel) -> None:
    space = parent.anatomy.build_space(UNITS)
    with pytest.raises(BadData, match="length 101: the model reads up to 64 tokens"):
        build_evaluator_of_space(parent, Workload.parse("decode:batch=1,past=100"), OFF, space)


def test_tokens_and_windows_are_not_searched_together(parent: ParentModel) -> None:
    space = parent.anatomy.build_space(UNITS)
    with pytest.raises(UsageError, match="--tokens search and windows of attention"):
        add_tokens(space, parent, find_target("jetson-orin"), Workload.parse("prefill:batch=1,seq=40"), SEARCH)


def test_a_finished_model_is_judged_as_it_was_searched(parent: ParentModel, tmp_path: Path) -> None:
    workload = Workload.parse("decode:batch=1,past=30")
    replace(certificate(tmp_path), workload=workload).save(tmp_path / "certificate.json")
    windowed = prune(parent.model, Architecture(2, frozenset({Choice.parse("attention.1:window=8")})))
    assert count_tokens(build_candidate_evaluator(parent, windowed, tmp_path)) == 31
    assert count_tokens(build_candidate_evaluator(parent, parent.model, tmp_path)) == 64


def test_what_reads_no_texts_is_refused() -> None:
    images = SimpleNamespace(id="vit", is_language_model=False, model=None)
    space = SimpleNamespace(choices=(Choice.parse("attention.1:window=8"),))
    with pytest.raises(UsageError, match="vit: windows of attention are judged on long texts"):
        build_evaluator_of_space(images, Workload.parse("forward:batch=1,seq=10"), OFF, space)
