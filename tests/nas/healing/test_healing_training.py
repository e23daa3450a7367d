"""What is trained, what is not, and that a run that was killed ends with the weights of one that was not."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import build
from healing_case import ARCHITECTURE, Case, Stops
from torch import Tensor

from nas.data.dataset import Split
from nas.healing.items import Items, count_tokens
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState, load_state
from nas.healing.train import Pace, measure_pace
from nas.healing.trainable import choose_trained
from nas.progress import Silent
from nas.request.choices import ALL, LORA, PROJECTIONS
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from pruning.surgery.quantised_linear import QuantisedLinear, round_weights
from search_spaces import Architecture
from search_spaces.errors import UsageError

QUICK = Recipe(steps=6, evaluate_every=3, save_every=2, batch_items=2, patience=9)
LAYER = "model.layers"
NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")


def copied(model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_output_projections_and_norms_of_kept_parts_are_trained() -> None:
    case = Case("llama")
    names = set(choose_trained(case.model, case.anatomy, ARCHITECTURE, PROJECTIONS).parameters)
    # Left are blocks 0, 2 (without its MLP and the norm before it) and 3.
    assert names == {
        *(f"{LAYER}.{position}.self_attn.o_proj.weight" for position in range(3)),
        *(f"{LAYER}.{position}.mlp.down_proj.weight" for position in (0, 2)),
        *(f"{LAYER}.{position}.{norm}" for position in (0, 2) for norm in NORMS), f"{LAYER}.1.{NORMS[0]}",
    }  # fmt: skip
    assert {name for name, each in case.model.named_parameters() if each.requires_grad} == names


def test_biases_of_all_matrices_in_the_blocks_are_trained_too() -> None:
    case = Case("roberta")
    names = set(choose_trained(case.model, case.anatomy, ARCHITECTURE, PROJECTIONS).parameters)
    assert "encoder.layer.0.attention.self.query.bias" in names
    assert "encoder.layer.0.attention.output.dense.weight" in names
    assert not {"encoder.layer.0.attention.self.query.weight", "embeddings.LayerNorm.weight"} & names


def test_all_is_every_parameter() -> None:
    case = Case("vit")
    names = set(choose_trained(case.model, case.anatomy, ARCHITECTURE, ALL).parameters)
    assert names == {name for name, _ in case.model.named_parameters()}


def test_adapters_of_all_matrices_in_the_blocks_are_trained_and_their_norms() -> None:
    case = Case("llama")
    weights = choose_trained(case.model, case.anatomy, ARCHITECTURE, LORA)
    matrices = [f"self_attn.{name}_proj" for name in "qkvo"], [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    adapted = {f"{LAYER}.{place}.{each}" for place in range(3) for each in matrices[0]}
    adapted |= {f"{LAYER}.{place}.{each}" for place in (0, 2) for each in matrices[1]}
    assert set(weights.adapters) == adapted
    assert set(weights.parameters) == {
        *(f"{path}.lora_{side}.default.weight" for path in adapted for side in "AB"),
        *(f"{LAYER}.{place}.{norm}" for place in (0, 2) for norm in NORMS), f"{LAYER}.1.{NORMS[0]}",
    }  # fmt: skip


def test_weights_of_fewer_bits_learn_through_their_rounding_and_ternary_ones_do_not(tmp_path: Path) -> None:
    words = "attn:bits=int8+mlp:bits=w4 attn:bits=w2+mlp:bits=w2 attn+mlp:bits=w8 attn+mlp"
    case = Case("llama", architecture=Architecture.from_words(words))
    before = copied(case.model)
    training = case.training(QUICK, tmp_path / "state.pt")
    names = set(training.weights.parameters)
    assert {f"{LAYER}.0.self_attn.o_proj.weight", f"{LAYER}.0.mlp.down_proj.weight"} <= names
    assert not any(f"{LAYER}.1.{module}.weight" in names for module in ("self_attn.o_proj", "mlp.down_proj"))
    training.run(TrainingState(6), Silent())
    assert changed(before, copied(case.model)) == names
    for name in names:  # what was learned of a rounded weight is not lost by rounding it
        module = case.model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, QuantisedLinear):
            old = round_weights(before[name], module.format)
            assert not torch.equal(old, module.get_rounded_weights())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_adapters_compute_what_they_did_beside_their_matrices(family: str, tmp_path: Path) -> None:
    case = Case(family)
    parent, before, inputs = copied(case.parent), copied(case.model), case.batch().inputs
    training = case.training(replace(QUICK, trained=LORA), tmp_path / "s.pt")
    untrained = case.model(**inputs)[0]
    assert torch.allclose(untrained, prune(case.parent, ARCHITECTURE)(**inputs)[0], atol=1e-6)
    state = training.run(TrainingState(6), Silent())
    assert state.best_step > 0
    trained = case.model(**inputs)[0].detach()
    assert not torch.allclose(trained, untrained, atol=1e-4)
    model = training.weights.finish()
    assert torch.allclose(model(**inputs)[0], trained, atol=1e-5)
    assert set(copied(model)) == set(before)
    assert not changed(parent, copied(case.parent))


def test_first_values_of_adapters_follow_from_the_seed() -> None:
    values = [
        choose_trained(Case("llama").model, Case("llama").anatomy, ARCHITECTURE, LORA, seed).copy()
        for seed in (1, 1, 2)
    ]
    assert not changed(values[0], values[1])
    assert {name.split("lora_")[1][0] for name in changed(values[0], values[2])} == {"A"}


def test_weights_that_are_shared_with_the_parent_become_the_models_own() -> None:
    case = Case("llama")
    shared = prune(case.parent, ARCHITECTURE, share_weights=True)
    assert any(parameter is each for parameter in shared.parameters() for each in case.parent.parameters())
    weights = choose_trained(shared, case.anatomy, ARCHITECTURE, ALL)
    assert not any(each is mine for each in case.parent.parameters() for mine in weights.parameters.values())
    assert all(each.requires_grad for each in shared.parameters())
    build_tied = build("gpt2")
    weights = choose_trained(
        prune(build_tied, ARCHITECTURE, share_weights=True), read_anatomy(build_tied), ARCHITECTURE, ALL
    )
    assert weights.model.get_output_embeddings().weight is weights.model.get_input_embeddings().weight


def test_nothing_else_changes_by_a_bit(tmp_path: Path) -> None:
    case = Case("llama")
    parent, before = copied(case.parent), copied(case.model)
    training = case.training(QUICK, tmp_path / "state.pt")
    state = training.run(TrainingState(6), Silent())
    assert state.best_step > 0
    assert changed(before, copied(case.model)) == set(training.weights.parameters)
    assert not changed(parent, copied(case.parent))


@pytest.mark.parametrize("family", ["llama", "roberta", "vit"])
def test_the_held_out_loss_falls(family: str, tmp_path: Path) -> None:
    case = Case(family, items=48)
    before = case.evaluator.evaluate(case.model).loss
    recipe = Recipe(steps=20, evaluate_every=10, learning_rate=3e-3)
    state = case.training(recipe, tmp_path / "state.pt").run(TrainingState(20), Silent())
    after = case.evaluator.evaluate(case.model).loss
    assert state.history[0] == (0, pytest.approx(before))
    assert after == pytest.approx(state.best_loss, rel=1e-5)
    assert after < 0.8 * before


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_was_killed_ends_with_the_very_same_weights(stop: int, tmp_path: Path) -> None:
    whole, killed, again = (Case("llama") for _ in range(3))
    straight = whole.training(QUICK, tmp_path / "whole.pt").run(TrainingState(6), Silent())
    file = tmp_path / "killed.pt"
    with pytest.raises(KeyboardInterrupt):
        killed.training(QUICK, file).run(TrainingState(6), Stops(stop))
    identity, state = load_state(file)
    assert identity == {"who": 1}
    assert state.done == {1: 2, 3: 4, 5: 6}[stop]  # advancing is told after a step was written
    continued = again.training(QUICK, file).run(state, Silent())
    assert not changed(copied(whole.model), copied(again.model))
    assert (continued.history, continued.best_step, continued.tokens) == (
        straight.history, straight.best_step, straight.tokens,
    )  # fmt: skip


def test_the_best_weights_are_kept_and_a_run_that_gets_worse_ends(tmp_path: Path) -> None:
    case, losses, seen = Case("llama"), iter([5.0, 3.0, 4.0, 3.5, 6.0, 1.0]), []

    def evaluate() -> float:
        seen.append(copied(case.model))
        return next(losses)

    recipe = Recipe(steps=6, evaluate_every=1, patience=3, batch_items=2)
    state = case.training(recipe, tmp_path / "s.pt", evaluate=evaluate).run(TrainingState(6), Silent())
    assert (state.best_step, state.best_loss, state.done) == (1, 3.0, 4)
    assert not changed(seen[1], copied(case.model))
    assert changed(seen[0], copied(case.model))


def test_a_model_that_only_gets_worse_stays_as_it_was(tmp_path: Path) -> None:
    case, losses = Case("llama"), iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    before = copied(case.model)
    recipe = Recipe(steps=9, evaluate_every=1, batch_items=2)
    state = case.training(recipe, tmp_path / "s.pt", evaluate=lambda: next(losses)).run(TrainingState(9), Silent())
    assert (state.best_step, state.done) == (0, 5)  # of 9: at a high learning rate it may well get worse first
    assert not changed(before, copied(case.model))


def test_a_rate_that_makes_the_model_worse_than_it_began_is_lowered_from_the_best_weights(tmp_path: Path) -> None:
    case, losses, seen = Case("llama"), iter([1.0, 2.0, 0.5, 0.9, 3.0]), []
    recipe = replace(QUICK, steps=4, evaluate_every=1)
    training = case.training(recipe, tmp_path / "s.pt", evaluate=lambda: next(losses))
    take = training.items.iterate_batches

    def note(step: int, *sizes: int):
        seen.append(copied(case.model))
        return take(step, *sizes)

    training.items.iterate_batches = note
    state = training.run(TrainingState(4), Silent())
    rates = [rate / QUICK.compute_rate(step - 1, 4) for step, _, rate in state.losses]
    assert rates == pytest.approx([1.0, 0.3, 0.3, 0.3])  # 0.9 is worse than the best, but not than the start
    assert not changed(seen[0], seen[1])
    assert changed(seen[1], seen[2])
    assert state.rate_scale == pytest.approx(0.09)


def test_a_loss_that_is_no_number_names_the_learning_rate(tmp_path: Path) -> None:
    case = Case("llama")
    training = case.training(QUICK, tmp_path / "s.pt", loss=lambda batch: case.loss()(batch) * math.nan)
    with pytest.raises(UsageError, match=r"--learning-rate 0\.001: .* at step 1"):
        training.run(TrainingState(6), Silent())
    assert not (tmp_path / "s.pt").exists()


def test_the_pace_is_measured_without_changing_the_model(tmp_path: Path) -> None:
    case = Case("llama")
    before = copied(case.model)
    training = case.training(QUICK, tmp_path / "s.pt")
    pace = measure_pace(training)
    assert pace.step > 0
    assert pace.evaluation > 0
    assert not changed(before, copied(case.model))
    assert all(parameter.grad is None for parameter in training.weights.parameters.values())


def test_minutes_become_steps_by_the_pace_with_their_evaluations() -> None:
    pace = Pace(step=2.0, evaluation=3.0)
    assert pace.count_steps(100.0) == (100 - 10 * 3) // 2
    assert pace.count_steps(100.0, evaluate_every=4) == 100 // (2 + 3 / 4)
    assert pace.count_steps(1e-9) == 1


def test_every_item_comes_once_before_any_comes_again() -> None:
    split = Split("calibration", {"input_ids": torch.arange(6)[:, None]})

    def rows(seed: int, step: int, size: int, count: int) -> list[int]:
        batches = Items(split, seed).iterate_batches(step, size, count)
        return [int(row) for each in batches for row in each.inputs["input_ids"]]

    order, other = ([row for step in range(4) for row in rows(seed, step, 1, 3)] for seed in (3, 4))
    assert sorted(order[:6]) == sorted(order[6:]) == list(range(6))
    assert order[:6] != order[6:]
    assert order[3:6] == rows(3, 1, 3, 1)
    assert order != other


def test_padding_is_no_token() -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert count_tokens({"input_ids": ids}) == 6
    assert count_tokens({"input_ids": ids, "attention_mask": mask}) == 5
    assert count_tokens({"pixel_values": torch.zeros(4, 3, 2, 2)}) == 4


def test_the_learning_rate_rises_in_a_line_and_falls_like_a_cosine() -> None:
    recipe = Recipe(steps=100, learning_rate=2.0, warm_up=0.1)
    rates = [recipe.compute_rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert (rates[10], rates[55]) == (pytest.approx(2.0), pytest.approx(1.0))
    assert rates[99] < 0.01


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 1.0, "steps": 5}, "--minutes 1 and --steps 5"),
        ({"steps": 0}, "--steps 0 is not above zero"),
        ({"minutes": math.nan}, "--minutes nan"),
        ({"learning_rate": -1.0}, "--learning-rate -1"),
        ({"trained": "head"}, "'head' is none of projections"),
    ],
)
def test_a_wrong_recipe_is_refused(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**given)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.pt").write_bytes(b"no state")
    with pytest.raises(UsageError, match=r"s\.pt cannot be read .*; delete it"):
        load_state(tmp_path / "s.pt")
