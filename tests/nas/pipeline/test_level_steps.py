"""Widths and heads that are no faster than larger ones are not searched."""

from types import SimpleNamespace
from typing import Any

from families import build

from latency_models.datasheet_model import DataSheetModel
from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.parent.shape import read_shape
from nas.pipeline.level_steps import restrict_to_steps
from pruning.anatomy.anatomy import read_anatomy
from search_spaces.space import Space
from search_spaces.unit import Choice

WIDTHS = tuple(f"mlp.0:width={share:g}" for share in (0.875, 0.75, 0.625, 0.5, 0.25))


def build_space(*more: str) -> Space:
    return Space(2, tuple(map(Choice.parse, ("mlp.0", "attention.0", *WIDTHS, *more))))


def build_latency(ms: dict[str, float]) -> Any:
    """By choice what it saves."""
    return SimpleNamespace(predict_unit_ms=lambda chosen: ms[str(chosen)])


def list_words(space: Space) -> set[str]:
    return set(map(str, space.choices))


def test_of_levels_on_one_step_the_one_that_leaves_most_stays() -> None:
    saved = dict(zip(WIDTHS, (0.0, 2.0, 2.0, 5.0, 5.05), strict=True)) | {"mlp.0": 10.0, "attention.0": 3.0}
    more = ("mlp.0:bits=w4", "attention.0:form=linear", "tokens.1=0.5")
    found = restrict_to_steps(build_space(*more), build_latency(saved))
    assert list_words(found) == {"mlp.0", "attention.0", WIDTHS[1], WIDTHS[3], *more}


def test_a_level_that_is_slower_than_a_larger_one_is_none() -> None:
    saved = dict(zip(WIDTHS, (2.0, 1.0, 3.0, 2.5, 4.0), strict=True)) | {"mlp.0": 10.0, "attention.0": 3.0}
    found = restrict_to_steps(build_space(), build_latency(saved))
    assert list_words(found) == {"mlp.0", "attention.0", WIDTHS[0], WIDTHS[2], WIDTHS[4]}


def test_levels_of_one_axis_are_compared_with_each_other_only() -> None:
    """A window that saves more than heads do is another thing than fewer heads."""
    saved = dict.fromkeys(WIDTHS, 5.0) | {"mlp.0": 10.0, "attention.0": 10.0}
    own = {"attention.0:heads=0.5": 3.0, "attention.0:window=64": 6.0, "attention.0:window=32": 6.05}
    found = restrict_to_steps(build_space(*own), build_latency(saved | own))
    assert {word for word in list_words(found) if word.startswith("attention.0:")} == set(list(own)[:2])


def test_by_a_data_sheet_every_share_is_a_step() -> None:
    """Its time is proportional to work."""
    model = build("gpt2")
    anatomy = read_anatomy(model)
    space = anatomy.build_space(("attention", "mlp", "mlp-width", "attention-heads"))
    latency = DataSheetModel(
        find_target("jetson-orin"), read_shape(model, anatomy), Workload.parse("forward:batch=64,seq=64")
    )
    assert restrict_to_steps(space, latency) == space
