"""What a search is bounded by beside latency, counted by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
from families import build

from latency_models.footprint import compute_memory
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.parent.shape import read_shape
from nas.pipeline.limits import list_limits
from nas.request.quantities import ByteLimit
from pruning.anatomy.anatomy import read_anatomy
from search_spaces import Architecture, Choice
from search_spaces.errors import UsageError

KEYS_AND_VALUES = 2 * 2 * 8  # of a token in one attention of the tiny Llama: two heads of eight numbers, twice
PARENT = 4 * KEYS_AND_VALUES * 32 * 2  # four blocks, 32 tokens, two bytes each


def build_context(workload: str, **limits: str) -> Any:
    model = build("llama")
    anatomy = read_anatomy(model)
    asked = dict.fromkeys(("max_parameters", "max_bytes", "max_cache"))
    request = SimpleNamespace(**asked | {name: ByteLimit.parse(text) for name, text in limits.items()})
    parent = SimpleNamespace(model=model, anatomy=anatomy, shape=read_shape(model, anatomy))
    space = anatomy.build_space(("attention", "mlp"))
    return SimpleNamespace(
        request=request, parent=parent, space=space, target=find_target("jetson-orin"),
        workload=Workload.parse(workload),
    )  # fmt: skip


def test_nothing_is_bounded_that_was_not_asked_for() -> None:
    assert list_limits(build_context("decode:batch=1,past=31")) == ()


@pytest.mark.parametrize(("text", "maximum"), [("0.5x", PARENT / 2), ("3kB", 3000.0)])
def test_a_cache_is_that_of_the_attentions_that_are_left(text: str, maximum: float) -> None:
    context = build_context("decode:batch=1,past=31", max_cache=text)
    (limit,) = list_limits(context)
    assert (limit.parent, limit.maximum) == (PARENT, maximum)
    dropped = Architecture.parent(4).drop(Choice.parse("attention.1"), Choice.parse("attention.3:heads=0.5"),
                                          Choice.parse("mlp.2"))  # fmt: skip
    assert limit.count(dropped) == PARENT * (2 + 0.5) / 4
    held = compute_memory(context.parent.shape, dropped, context.workload, context.target.precision).cache
    assert held == limit.count(dropped)


def test_a_window_keeps_the_tokens_that_it_shows_and_the_first_four() -> None:
    context = build_context("decode:batch=1,past=31", max_cache="0.5x")
    (limit,) = list_limits(context)
    windowed = Architecture.parent(4).drop(Choice.parse("attention.1:window=4"), Choice.parse("attention.2:window=64"))
    assert limit.count(windowed) == PARENT * (3 + (4 + 4 - 1) / 32) / 4  # the wider one shows everything
    held = compute_memory(context.parent.shape, windowed, context.workload, context.target.precision).cache
    assert held == limit.count(windowed)


def test_a_bound_on_a_cache_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--max-cache 0\.5x: forward:batch=1,seq=32 keeps no keys and values"):
        list_limits(build_context("forward:batch=1,seq=32", max_cache="0.5x"))
