"""Linear maps that stand in for parts: fitted to what the parent has where the next part reads."""

import numpy as np
import pytest
import torch
from families import FAMILIES, build, example, mark_rest_slow
from test_compensator import build_with, distance, drop, naive_ridge, rows

from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.compensation.candidate_builder import list_adjusted
from pruning.compensation.compensator import Compensator
from pruning.compensation.method import DRAFT, METHODS, Refit
from pruning.compensation.streams import run_trunk, watch_input, watch_output
from search_spaces import Architecture, Choice, Kind

ITEMS = 24


def choose(depth: int, *texts: str) -> Architecture:
    return Architecture(depth).drop(*map(Choice.parse, texts))


def list_offered(anatomy: Anatomy) -> list[str]:
    texts = (f"{kind}.1:form=linear" for kind in ("attention", "mlp"))
    return [text for text in texts if Choice.parse(text) in anatomy.choices]


@pytest.mark.parametrize("family", mark_rest_slow(FAMILIES))
def test_a_map_is_nearer_to_the_parent_than_nothing_on_items_that_it_has_not_seen(family: str) -> None:
    parent = build(family)
    anatomy, inputs, unseen = read_anatomy(parent), example(parent, batch=8 * ITEMS), example(parent, batch=8, seed=5)
    assert list_offered(anatomy)
    for text in list_offered(anatomy):
        mapped = build_with(parent, anatomy, choose(anatomy.depth, text), inputs)
        dropped = build_with(parent, anatomy, drop(anatomy.depth, (1, Choice.parse(text).kind)), inputs)
        assert any(each.path.endswith(".linear") for each in list_adjusted(mapped))
        assert distance(mapped, parent, anatomy, unseen) < distance(dropped, parent, anatomy, unseen)


@pytest.mark.parametrize("family", mark_rest_slow(["llama", "qwen2", "gpt2", "vit"]))
def test_the_map_of_a_part_is_the_naive_ridge_solution_of_what_the_part_gave(family: str) -> None:
    """The first thing that differs from the parent: it is given what the part is."""
    parent = build(family)
    anatomy, inputs, penalty = read_anatomy(parent), example(parent, batch=4 * ITEMS), 0.05
    compensator = Compensator(parent, anatomy, inputs, Refit((penalty,)))
    adjusted = compensator.adjust(choose(anatomy.depth, "mlp.1:form=linear"))
    found = next(each for each in adjusted if each.path.endswith(".linear"))

    part, block = anatomy.blocks[1].mlp, parent.get_submodule(anatomy.stack)[1]
    seen: dict[str, torch.Tensor] = {}
    ends = [
        watch_input(block.get_submodule(part.members[0]), lambda value: seen.update(given=value)),
        watch_output(block.get_submodule(part.writes), lambda value: seen.update(written=value)),
    ]
    with torch.no_grad():
        run_trunk(parent, anatomy, inputs)
    for end in ends:
        end()
    expected = naive_ridge(rows(seen["given"]), rows(seen["written"]), penalty, found.module.bias is not None)
    np.testing.assert_allclose(found.module.weight.detach().double().numpy().T, expected, atol=2e-5)


def test_a_map_learns_a_part_that_is_linear() -> None:
    """Where the MLP of the parent is a linear map itself, nothing is lost."""
    parent = build("llama")
    anatomy = read_anatomy(parent)
    matrix = torch.randn(32, 32, generator=torch.Generator().manual_seed(2)) / 6
    parent.model.layers[1].mlp.register_forward_hook(lambda module, args, output: args[0] @ matrix)
    inputs, unseen = example(parent, batch=4 * ITEMS), example(parent, batch=8, seed=5)
    mapped = build_with(parent, anatomy, choose(4, "mlp.1:form=linear"), inputs)
    torch.testing.assert_close(mapped.model.layers[1].mlp.linear.weight, matrix.T, atol=5e-3, rtol=0)
    assert distance(mapped, parent, anatomy, unseen) < 1e-4 * distance(
        build_with(parent, anatomy, drop(4, (1, Kind.MLP)), inputs), parent, anatomy, unseen
    )


@pytest.mark.parametrize("method", [METHODS["refit"], METHODS["merge"], METHODS["auto"], DRAFT])
def test_every_form_that_fits_weights_fits_maps(method) -> None:
    parent = build("llama")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    adjusted = Compensator(parent, anatomy, inputs, method).adjust(choose(4, "attention.2:form=linear"))
    assert [each.path for each in adjusted if each.layer == 2][:1] == ["self_attn.linear"]


def test_candidates_with_and_without_a_map_share_only_what_is_before_it() -> None:
    parent = build("llama")
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS)
    shared = Compensator(parent, anatomy, inputs, METHODS["refit"])
    for texts in (["mlp.2"], ["mlp.2:form=linear"], ["mlp.2:form=linear", "attention.3"]):
        alone = Compensator(parent, anatomy, inputs, METHODS["refit"])
        one, other = (each.adjust(choose(4, *texts)) for each in (shared, alone))
        assert [(each.layer, each.path) for each in one] == [(each.layer, each.path) for each in other]
        assert all(torch.equal(a.module.weight, b.module.weight) for a, b in zip(one, other, strict=True))
