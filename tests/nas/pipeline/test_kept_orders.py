"""Orders of channels are found out once for a parent, and go from search to search and into the winner's folder."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import build, example

from nas.data.dataset import Split
from nas.pipeline.channel_orders import describe_orders, list_channels, order_parent_channels, restore_orders
from nas.progress import Silent
from pruning.analysis import compute_orders_digest
from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.channel_order import get_channel_order
from pruning.surgery.prune import prune
from search_spaces import Architecture, Choice
from search_spaces.errors import UsageError


@pytest.fixture
def parent(tmp_path: Path) -> Any:
    model = build("llama")
    anatomy = read_anatomy(model)
    return SimpleNamespace(model=model, placed=copy.deepcopy(model), anatomy=anatomy, cache=tmp_path / "cache")


def order(parent: Any, names: tuple[str, ...] = ("mlp", "mlp-width")) -> str:
    """The digest of the orders of a parent that is searched with some kinds of units."""
    calibration = Split("calibration", dict(example(parent.model, batch=12)))
    order_parent_channels(parent.anatomy.build_space(names), parent, calibration, Silent())
    assert compute_orders_digest(parent.model) == compute_orders_digest(parent.placed)
    return compute_orders_digest(parent.model)


def test_what_was_found_out_is_read_by_the_next_search(parent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert order(parent, ("attention", "mlp")) == ""
    digest = order(parent)
    assert digest
    again = SimpleNamespace(**vars(parent) | {"model": build("llama"), "placed": build("llama")})
    with monkeypatch.context() as patch:
        patch.setattr("nas.pipeline.channel_orders.order_channels", None)
        assert order(again) == digest
    (file,) = parent.cache.iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # damaged: found out again
    assert order(again) == digest


def test_what_inputs_count_is_kept_with_an_order_by_a_score(parent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    space = parent.anatomy.build_space(("mlp-width", "attention-heads"))
    calibration = Split("calibration", dict(example(parent.model, batch=12)))
    order_parent_channels(space, parent, calibration, Silent(), "wifv")
    found = list_channels(parent.model, parent.anatomy, space.choices)
    assert {(str(each.unit), each.axis, each.groups, each.size) for each in found} == {
        word
        for layer in range(4)
        for word in ((f"mlp.{layer}", "width", 48, 1), (f"attention.{layer}", "heads", 2, 16))
    }
    again = SimpleNamespace(**vars(parent) | {"model": build("llama"), "placed": build("llama")})
    monkeypatch.setattr("nas.pipeline.channel_orders.order_channels", None)
    order_parent_channels(space, again, calibration, Silent(), "wifv")
    assert list_channels(again.model, parent.anatomy, space.choices) == found
    mlp = next(each for each in found if str(each.unit) == "mlp.2")
    order_kept = get_channel_order(parent.model.model.layers[2].mlp.down_proj).groups.tolist()
    assert order_kept == sorted(range(48), key=lambda at: -mlp.scores[at])
    assert describe_orders(parent.model, parent.anatomy, Architecture(4).drop(mlp.keep(24))) is not None


def test_an_order_that_weighs_groups_together_has_no_scores(parent: Any) -> None:
    order(parent)
    assert list_channels(parent.model, parent.anatomy, parent.anatomy.choices) == ()


def test_a_winner_can_be_cut_again_from_what_its_folder_says(parent: Any, tmp_path: Path) -> None:
    architecture = Architecture(4).drop(Choice.parse("mlp.1:width=0.5"), Choice.parse("attention.2"))
    assert describe_orders(parent.model, parent.anatomy, architecture) is None
    order(parent)
    assert describe_orders(parent.model, parent.anatomy, Architecture(4).drop(Choice.parse("mlp.1"))) is None
    document = describe_orders(parent.model, parent.anatomy, architecture)
    file, fresh = tmp_path / "channels.json", build("llama")
    file.write_text(json.dumps(document))
    restore_orders(fresh, parent.anatomy, file)
    pruned, again = (prune(model, architecture, anatomy=parent.anatomy) for model in (parent.model, fresh))
    for (_, one), (_, other) in zip(pruned.named_parameters(), again.named_parameters(), strict=True):
        assert (one == other).all()
    file.write_text(json.dumps({"projections": [{"layer": 9, "path": "mlp", "order": [0], "criterion": "obs"}]}))
    with pytest.raises(UsageError, match=r"channels\.json is not of this parent"):
        restore_orders(fresh, parent.anatomy, file)
