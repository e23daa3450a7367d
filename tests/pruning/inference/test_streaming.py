"""What is streamed equals what is not, bit by bit, in every family: analysis, candidates, compensation."""

import sys

import pytest
import torch
from families import FAMILIES, REPRESENTATIVES, example, mark_rest_slow
from families import build as build_usual
from other_families import READ, READ_FAST
from other_families import build as build_other

from pruning.analysis.redundancy import RedundancyObserver, measure_redundancy
from pruning.analysis.traversal import ObservedBatch, run_together
from pruning.analysis.traversal_state import TraversalState
from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import load_parent
from pruning.compensation.candidate_builder import CandidateBuilder, CompensationPlan, list_adjusted
from pruning.inference import residency
from pruning.inference.prefix_cache import PrefixStore, make_resumable
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.unit import Unit

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is let go of")
_ALL = mark_rest_slow([*FAMILIES, *READ], [*REPRESENTATIVES, *READ_FAST])


@pytest.fixture
def pair(request, tmp_path, monkeypatch):
    """A parent as it is, the same streamed, and the bytes that were let go of so far; tiny matrices count, too."""
    released = []
    let_go = residency._release

    def count(begin, end):
        released.append(let_go(begin, end))
        return released[-1]

    monkeypatch.setattr(residency, "SMALLEST", 1)
    monkeypatch.setattr(residency, "_release", count)
    (build_usual if request.param in FAMILIES else build_other)(request.param).save_pretrained(tmp_path)
    plain, streamed = load_parent(tmp_path), load_parent(tmp_path)
    residency.stream(streamed)
    return plain, streamed, released


def choose(depth):
    return Architecture.parent(depth).drop(Unit(1, Kind.MLP), Unit(2, Kind.ATTENTION))


def take_together(model, anatomy, batches, folder):
    """The analysis of all batches together, in groups of two."""
    state = TraversalState(folder, "a model and its items")
    observer = RedundancyObserver(anatomy, state.file)
    observed = [ObservedBatch(observer, number, batch) for number, batch in enumerate(batches)]
    run_together(model, anatomy, [observed[:2], observed[2:]], state)
    return observer.average()


@torch.inference_mode()
def run(model, batches):
    return [model(**batch)[0] for batch in batches]


def are_equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("pair", _ALL, indirect=True)
def test_analysis_and_candidates_are_the_same(pair, tmp_path):
    plain, streamed, released = pair
    anatomy = read_anatomy(plain)
    batches = [example(plain, seed=seed) for seed in (1, 2, 3)]
    one, other = (measure_redundancy(model, batches, anatomy) for model in (plain, streamed))
    assert one == other
    assert take_together(streamed, anatomy, batches, tmp_path / "state") == one
    for architecture in (Architecture.parent(anatomy.depth), choose(anatomy.depth)):
        built = [prune(model, architecture, anatomy=anatomy, share_weights=True) for model in (plain, streamed)]
        store = PrefixStore()
        outputs = [run(model, batches) for model in built]
        assert are_equal(*outputs)
        make_resumable(built[1], anatomy, [], store)
        assert are_equal(run(built[1], batches), outputs[0])
    assert sum(released) > 0


@pytest.mark.parametrize("pair", mark_rest_slow(FAMILIES), indirect=True)
def test_adjusted_weights_are_the_same(pair):
    plain, streamed, released = pair
    anatomy, inputs = read_anatomy(plain), example(plain, batch=24)
    plan = CompensationPlan("auto", inputs, inputs)
    built = [CandidateBuilder(model, anatomy, plan).build(choose(anatomy.depth)) for model in (plain, streamed)]
    adjusted = [list_adjusted(model) for model in built]
    assert adjusted[0]
    for one, other in zip(*adjusted, strict=True):
        assert (one.layer, one.path) == (other.layer, other.path)
        assert torch.equal(one.module.weight, other.module.weight)
    assert are_equal(*(run(model, [inputs]) for model in built))
    assert sum(released) > 0
