"""Adjusted candidates of every family: against naive computations, fresh ones, full passes and the parent."""

import itertools
import random

import numpy as np
import pytest
import torch
from families import DECODERS, FAMILIES, REPRESENTATIVES, build, example, filled, mark_rest_slow
from other_families import SUMS
from torch import nn

from pruning.analysis.channel_orders import order_channels
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.contribution import Layout
from pruning.compensation.calibration_pass import Adjusted, hold_out
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, get_compensation, list_adjusted
from pruning.compensation.compensator import Compensator
from pruning.compensation.method import DRAFT, METHODS, Observed, Refit
from pruning.compensation.streams import run_trunk, watch_input
from pruning.inference.prefix_cache import PrefixStore, make_resumable
from pruning.surgery.channel_order import get_channel_order
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice, Kind, Unit
from search_spaces.space import is_empty

ITEMS = 24


def drop(depth: int, *units: tuple[int, Kind]) -> Architecture:
    return Architecture(depth).drop(*(Unit(layer, kind) for layer, kind in units))


def states(model, anatomy: Anatomy, inputs) -> torch.Tensor:
    """What leaves the last block (batch · tokens, d)."""
    seen: list[torch.Tensor] = []
    last = model.get_submodule(anatomy.stack)[-1]
    handle = last.register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        run_trunk(model, anatomy, inputs)
    handle.remove()
    return seen[0].flatten(0, 1)


def distance(model, parent, anatomy: Anatomy, inputs) -> float:
    return float((states(model, anatomy, inputs) - states(parent, anatomy, inputs)).square().mean())


def build_with(parent, anatomy: Anatomy, architecture: Architecture, inputs, method: str = "refit"):
    return CandidateBuilder(parent, anatomy, CompensationPlan(method, inputs, inputs)).build(architecture)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adjusted_candidate_is_nearer_to_its_parent_on_items_that_it_has_not_seen(family: str) -> None:
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    architecture = drop(anatomy.depth, (1, Kind.MLP), (2, Kind.ATTENTION))
    unseen = example(parent, batch=8, seed=5)
    plain = prune(parent, architecture, anatomy=anatomy)
    adjusted = build_with(parent, anatomy, architecture, inputs)
    assert list_adjusted(adjusted)
    assert distance(adjusted, parent, anatomy, unseen) < distance(plain, parent, anatomy, unseen)


_METHODS_FAST = [*itertools.product(["llama"], METHODS), *itertools.product(REPRESENTATIVES, ["refit"])]


@pytest.mark.parametrize(("family", "method"), mark_rest_slow(itertools.product(FAMILIES, METHODS), _METHODS_FAST))
def test_nothing_is_adjusted_where_nothing_is_lacking(family: str, method: str) -> None:
    parent = build(family)
    anatomy = read_anatomy(parent)
    compensator = Compensator(parent, anatomy, example(parent, batch=4), METHODS[method])
    assert compensator.adjust(Architecture(anatomy.depth)) == ()


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_in_bf16_what_is_lacking_is_made_up_for_as_well(family: str) -> None:
    """Blocks before the first gap stay as they are: parent and candidate are rounded alike there."""
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    architecture, unseen = drop(anatomy.depth, (2, Kind.ATTENTION)), example(parent, batch=8, seed=5)
    for final in (True, False):
        lost = []
        for bf16 in (False, True):
            plan = CompensationPlan("refit", inputs, inputs, bf16)
            adjusted = CandidateBuilder(parent, anatomy, plan).build(architecture, final)
            assert list_adjusted(adjusted)
            assert all(each.layer > 0 for each in list_adjusted(adjusted))
            lost.append(distance(adjusted, parent, anatomy, unseen))
        dropped = distance(prune(parent, architecture, anatomy=anatomy), parent, anatomy, unseen)
        assert lost[1] < lost[0] + 0.05 * (dropped - lost[0])


@pytest.mark.parametrize("tokens", [200, 8], ids=["more tokens", "more inputs"])
def test_a_draft_is_the_naive_ridge_solution_of_all_tokens(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, r = torch.randn(tokens, 12, generator=generator), torch.randn(tokens, 5, generator=generator)
    for bias in (None, torch.zeros(5)):
        held = torch.arange(tokens) % 4 == 3
        adjustment = DRAFT.adjust(Observed(x, torch.ones(12, 5), bias, r, r + x[:, :5], held))
        assert adjustment is not None
        expected = naive_ridge(x.double().numpy(), (r + x[:, :5]).double().numpy(), 1.0, bias is not None)
        np.testing.assert_allclose(adjustment.weight.numpy(), expected, atol=1e-5)


_RIDGES = [
    *((each, 1.0) for each in ("llama", "qwen2", "phi3", "gpt2", "opt", "mistral", "vit", "clip", "siglip")),
    ("granite", 0.3),
    ("beit", "lambda_1"),
]


@pytest.mark.parametrize(
    ("family", "factor"), mark_rest_slow(_RIDGES, [*((each, 1.0) for each in ("llama", "gpt2", "vit")), *_RIDGES[-2:]])
)
def test_the_projection_before_a_gap_is_the_naive_ridge_solution(family: str, factor: float | str) -> None:
    """The attention of block 1 has to make up for its MLP and for the attention of block 2, counting `factor` times.

    The factor may be a parameter of the block, a number for each channel.
    """
    parent = build(family) if factor == 1.0 else filled(SUMS[family][0])
    anatomy, inputs = read_anatomy(parent), example(parent, batch=4 * ITEMS)
    assert anatomy.layout is Layout.PRE_NORM
    architecture = drop(anatomy.depth, (1, Kind.MLP), (2, Kind.ATTENTION))
    penalty = 0.05
    adjusted = Compensator(parent, anatomy, inputs, Refit((penalty,))).adjust(architecture)[0]
    path = anatomy.blocks[1].attention.projection
    assert (adjusted.layer, adjusted.path) == (1, path)

    blocks = parent.get_submodule(anatomy.stack)
    seen: dict[str, torch.Tensor] = {}
    ends = [
        watch_input(blocks[1], lambda value: seen.update(before=value)),
        watch_input(blocks[1].get_submodule(path), lambda value: seen.update(given=value)),
        watch_input(blocks[2].get_submodule(anatomy.blocks[2].mlp.reads), lambda value: seen.update(target=value)),
    ]
    with torch.no_grad():
        run_trunk(parent, anatomy, inputs)
    for end in ends:
        end()
    projection = blocks[1].get_submodule(path)
    x = rows(seen["given"])
    times = blocks[1].get_parameter(factor).detach().double().numpy() if isinstance(factor, str) else factor
    wanted = (rows(seen["target"]) - rows(seen["before"])) / times
    weight = get_weight_matrix(projection).detach().double().numpy().T
    written = x @ weight + (0 if projection.bias is None else projection.bias.detach().double().numpy())
    expected = naive_ridge(x, wanted - written, penalty, projection.bias is not None)
    found = get_weight_matrix(adjusted.module).detach().double().numpy().T - weight
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "vit"])
def test_what_stays_of_a_narrower_mlp_is_the_naive_ridge_solution(family: str) -> None:
    """From the neurons that stay, towards the parent's stream where the next part reads it."""
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent, batch=4 * ITEMS)
    order_channels(parent, anatomy, inputs)
    penalty, path = 0.05, anatomy.blocks[1].mlp.projection
    architecture = Architecture(anatomy.depth).drop(Choice.parse("mlp.1:width=0.5"))
    adjusted = Compensator(parent, anatomy, inputs, Refit((penalty,))).adjust(architecture)[0]
    assert (adjusted.layer, adjusted.path) == (1, path)
    down, seen = parent.get_submodule(anatomy.stack)[1].get_submodule(path), dict[str, torch.Tensor]()
    end = watch_input(down, lambda value: seen.update(given=value))
    with torch.no_grad():
        run_trunk(parent, anatomy, inputs)
    end()
    order = get_channel_order(down)
    assert order is not None
    kept = sorted(order.groups[: get_weight_matrix(adjusted.module).shape[1]].tolist())
    weight = get_weight_matrix(down).detach().double().numpy().T
    x = rows(seen["given"])
    lost = x @ weight - x[:, kept] @ weight[kept]
    found = get_weight_matrix(adjusted.module).detach().double().numpy().T - weight[kept]
    expected = naive_ridge(x[:, kept], lost, penalty, down.bias is not None)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def rows(value: torch.Tensor) -> np.ndarray:
    return value.detach().reshape(-1, value.shape[-1]).double().numpy()


def naive_ridge(x: np.ndarray, r: np.ndarray, penalty: float, offset: bool) -> np.ndarray:
    """By a singular value decomposition of all tokens at once."""
    if offset:
        x, r = x - x.mean(0), r - r.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    strength = penalty * (s**2).sum() / x.shape[1]
    return vt.T @ ((s / (s**2 + strength))[:, None] * (u.T @ r))


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_candidates_that_begin_alike_share_what_is_the_same_and_nothing_else(family: str) -> None:
    parent, chance = build(family), random.Random(3)
    anatomy, inputs = read_anatomy(parent), example(parent, batch=6)
    shared = Compensator(parent, anatomy, inputs, METHODS["refit"])
    for _ in range(6):
        architecture = some_architecture(anatomy, chance)
        alone = Compensator(parent, anatomy, inputs, METHODS["refit"])
        compare(shared.adjust(architecture), alone.adjust(architecture))


def compare(one: tuple[Adjusted, ...], other: tuple[Adjusted, ...]) -> None:
    assert [(each.layer, each.path) for each in one] == [(each.layer, each.path) for each in other]
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.module.weight, second.module.weight)


def test_norms_of_dropped_parts_on_the_way_make_a_difference() -> None:
    """In post-norm a block whose parts are dropped one by one leaves its norms behind, a removed block does not."""
    parent = build("bert")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    shared = Compensator(parent, anatomy, inputs, METHODS["refit"])
    for architecture in (drop(4, (2, Kind.BLOCK)), drop(4, (2, Kind.ATTENTION), (2, Kind.MLP))):
        alone = Compensator(parent, anatomy, inputs, METHODS["refit"])
        compare(shared.adjust(architecture), alone.adjust(architecture))


def some_architecture(anatomy: Anatomy, chance: random.Random) -> Architecture:
    kinds = (Kind.ATTENTION, Kind.MLP, Kind.BLOCK)
    units = [(layer, kind) for layer in range(anatomy.depth) for kind in kinds]
    while True:
        architecture = drop(anatomy.depth, *chance.sample(units, chance.randrange(1, 6)))
        if not is_empty(architecture):
            return architecture


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "bert", "vit"])
def test_resumed_passes_of_adjusted_candidates_equal_full_ones(family: str) -> None:
    parent, chance, store = build(family), random.Random(4), PrefixStore()
    anatomy, inputs, batch = read_anatomy(parent), example(parent, batch=6), example(parent, seed=9)
    builder = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs))
    fixed = {"use_cache": False} if family in DECODERS else {}
    some = [some_architecture(anatomy, chance) for _ in range(5)]
    late = [each.drop(Unit(3, Kind.MLP)) for each in some]  # the same up to its last block
    for architecture in (each for pair in zip(some, late, strict=True) for each in pair if not is_empty(each)):
        candidate = builder.build(architecture)
        with torch.inference_mode():
            full = candidate(**batch, **fixed)[0]
            make_resumable(candidate, anatomy, builder.list_prefixes(architecture), store)
            assert torch.equal(candidate(**batch, **fixed)[0], full)
    assert store.skipped > 0


@pytest.mark.parametrize(("capacity", "kept"), [(0, 2), (1 << 30, 5)])
def test_the_weights_of_as_many_candidates_are_kept_as_memory_allows(capacity: int, kept: int) -> None:
    parent = build("llama")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    compensator = Compensator(parent, anatomy, inputs, METHODS["refit"], capacity=capacity)
    chosen = [drop(4, unit) for unit in [(1, Kind.MLP), (2, Kind.MLP), (1, Kind.ATTENTION), (2, Kind.ATTENTION)]]
    chosen.append(drop(4, (3, Kind.BLOCK)))
    first = [compensator.adjust(each) for each in chosen]
    again = [compensator.adjust(each) for each in reversed(chosen[-kept:])]
    assert all(one is other for one, other in zip(first[::-1][:kept], again, strict=True))
    if kept < len(chosen):
        assert compensator.adjust(chosen[0]) is not first[0]


def test_routed_experts_are_left_as_they_are() -> None:
    parent = build("mixtral")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    adjusted = Compensator(parent, anatomy, inputs, METHODS["refit"]).adjust(drop(4, (1, Kind.ATTENTION)))
    assert anatomy.blocks[0].mlp.projection is None
    assert {each.path for each in adjusted} == {anatomy.blocks[0].attention.projection}


def test_weights_that_another_module_shares_are_left_as_they_are() -> None:
    parent = build("llama")
    layers = parent.model.layers
    parent.other = nn.ModuleList(nn.Linear(48, 32, bias=False) for _ in range(2))
    parent.other[0].weight, parent.other[1].weight = (layers[each].mlp.down_proj.weight for each in (0, 3))
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    adjusted = Compensator(parent, anatomy, inputs, METHODS["refit"]).adjust(drop(4, (1, Kind.ATTENTION)))
    assert not {(0, "mlp.down_proj"), (3, "mlp.down_proj")} & {(each.layer, each.path) for each in adjusted}


def test_the_parent_stays_as_it_is() -> None:
    parent = build("llama")
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    build_with(parent, anatomy, drop(4, (1, Kind.MLP)), inputs)
    assert all(torch.equal(before[name], value) for name, value in parent.state_dict().items())


def test_padding_makes_no_difference() -> None:
    parent = build("bert")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    mask = torch.ones_like(inputs["input_ids"])
    padded = {
        "input_ids": torch.cat([inputs["input_ids"], torch.zeros(ITEMS, 3, dtype=torch.long)], 1),
        "attention_mask": torch.cat([mask, torch.zeros(ITEMS, 3, dtype=torch.long)], 1),
    }
    architecture = drop(4, (1, Kind.MLP), (2, Kind.ATTENTION))
    method = Refit((0.1,))
    plain = Compensator(parent, anatomy, {**inputs, "attention_mask": mask}, method).adjust(architecture)
    other = Compensator(parent, anatomy, padded, method).adjust(architecture)
    assert len(plain) > 1
    for first, second in zip(plain, other, strict=True):
        torch.testing.assert_close(first.module.weight, second.module.weight, atol=2e-4, rtol=1e-3)


def test_a_record_says_what_the_weights_were_made_from() -> None:
    parent = build("llama")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    record = get_compensation(build_with(parent, anatomy, drop(4, (1, Kind.MLP)), inputs))
    assert record is not None
    assert (record.method, record.items, record.tokens) == ("refit", ITEMS, inputs["input_ids"].numel())
    assert all(0 <= each.unexplained < 1 for each in record.projections)
    assert get_compensation(prune(parent, drop(4, (1, Kind.MLP)), anatomy=anatomy)) is None


def test_held_out_items_are_whole_ones() -> None:
    held = hold_out(16, 3).reshape(16, 3)
    assert held.any(1).tolist() == held.all(1).tolist()
    assert held.all(1).sum() == 2
    assert hold_out(1, 16).tolist() == [False] * 14 + [True] * 2
