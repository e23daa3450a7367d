"""Several processes that share a step make the step of one with as many items."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from healing_case import ARCHITECTURE, Case

from nas.healing.items import Items
from nas.healing.processes import run_on_every_device
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState, load_state
from nas.progress import Silent
from pruning.surgery.prune import prune

RECIPE = Recipe(steps=4, evaluate_every=2, batch_items=3, accumulation=1)


def test_processes_are_given_other_items_which_are_together_those_of_one() -> None:
    split = Case("llama").data.calibration
    one = next(Items(split, 0).iterate_batches(1, 6, 1)).positions
    two = [next(Items(split, 0, process, 2).iterate_batches(1, 3, 1)).positions for process in range(2)]
    assert torch.equal(torch.cat(two), one)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one_that_sees_as_many_items(tmp_path: Path) -> None:
    together, alone = Case("llama"), Case("llama")
    training = together.training(RECIPE, tmp_path / "two.pt")
    two = run_on_every_device(together.student, training, TrainingState(4), Silent(), processes=2)
    one = alone.training(replace(RECIPE, batch_items=6), tmp_path / "one.pt").run(TrainingState(4), Silent())
    assert (two.done, two.tokens) == (one.done, one.tokens) == (4, 4 * 6 * 16)
    assert [step for step, _ in two.history] == [0, 2, 4]
    for (_, loss), (_, expected) in zip(two.history, one.history, strict=True):
        assert loss == pytest.approx(expected, rel=1e-2)  # products are in bf16
    for name, weights in one.best.items():
        change = (weights - prune(alone.parent, ARCHITECTURE).get_parameter(name)).abs().mean()
        assert (two.best[name] - weights).abs().mean() < 0.1 * change, name
        assert torch.equal(together.model.get_parameter(name), two.best[name])
    kept = load_state(tmp_path / "two.pt")
    assert kept is not None
    assert kept[1].done == 4
