"""Adjusted candidates that drop tokens: the target is the parent's stream at the tokens that are left."""

import numpy as np
import pytest
import torch
from families import build, example
from test_compensator import naive_ridge, rows

from pruning.anatomy.anatomy import read_anatomy
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan
from pruning.compensation.compensator import Compensator
from pruning.compensation.method import Refit
from pruning.compensation.streams import run_trunk, watch_input
from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice, Kind, Unit
from search_spaces.schedule import Reducer, Reduction, Scorer

ITEMS, PENALTY = 96, 0.05


def choose(reduction: Reduction, *texts: str) -> Architecture:
    return Architecture(4, frozenset(map(Choice.parse, texts)), reduction)


@pytest.mark.parametrize("family", ["vit", "llama"])
def test_the_target_is_the_parent_s_stream_at_the_tokens_that_are_left(family: str) -> None:
    """Block 2 sees half of the tokens and has lost its MLP, which its attention has to make up for."""
    parent = build(family)
    anatomy, inputs = read_anatomy(parent), example(parent, batch=ITEMS, tokens=60)
    architecture = choose(Reduction(Scorer.NORM), "tokens.2=0.5", "mlp.2")
    adjusted = Compensator(parent, anatomy, inputs, Refit((PENALTY,))).adjust(architecture)
    first = adjusted[0]
    path = anatomy.blocks[2].attention.projection
    assert (first.layer, first.path) == (2, path), "before the stage nothing is lacking"

    seen: dict[str, torch.Tensor] = {}
    plain = prune(parent, architecture, anatomy=anatomy)
    for model, name in ((parent, "parent"), (plain, "candidate")):
        blocks = model.get_submodule(anatomy.stack)
        ends = [
            watch_input(blocks[2], lambda value, name=name: seen.update({f"{name} before": value})),
            watch_input(blocks[2].get_submodule(path), lambda value, name=name: seen.update({f"{name} given": value})),
            watch_input(blocks[3], lambda value, name=name: seen.update({f"{name} after": value})),
        ]
        with torch.no_grad():
            run_trunk(model, anatomy, inputs)
        for end in ends:
            end()
    places = torch.cdist(seen["candidate before"], seen["parent before"]).argmin(-1)  # which tokens are left
    assert places.shape[1] < seen["parent before"].shape[1]
    target = seen["parent after"].gather(1, places[..., None].expand(-1, -1, 32))
    projection = parent.get_submodule(anatomy.stack)[2].get_submodule(path)
    x, weight = rows(seen["candidate given"]), get_weight_matrix(projection).detach().double().numpy().T
    written = x @ weight + (0 if projection.bias is None else projection.bias.detach().double().numpy())
    lacking = rows(target) - rows(seen["candidate before"]) - written
    expected = naive_ridge(x, lacking, PENALTY, projection.bias is not None)
    found = get_weight_matrix(first.module).detach().double().numpy().T - weight
    np.testing.assert_allclose(found, expected, atol=3e-5)


@pytest.mark.parametrize("reducer", list(Reducer))
def test_an_adjusted_candidate_is_nearer_to_its_parent_with_every_way_of_reducing(reducer: Reducer) -> None:
    """By what both give of an image, on images that were not seen."""
    parent = build("vit")
    anatomy, inputs, unseen = read_anatomy(parent), example(parent, batch=ITEMS), example(parent, batch=16, seed=5)
    architecture = choose(Reduction(Scorer.NORM, reducer), "tokens.2=0.5", "mlp.2").drop(Unit(1, Kind.ATTENTION))
    builder = CandidateBuilder(parent, anatomy, CompensationPlan("refit", inputs, inputs))

    @torch.no_grad()
    def distance(model) -> float:
        return float((model(**unseen)[0][:, 0] - parent(**unseen)[0][:, 0]).square().mean())

    assert distance(builder.build(architecture)) < distance(prune(parent, architecture, anatomy=anatomy))
