"""What running a parent takes is said before it begins, and refused where it does not fit."""

import sys

import pytest
import torch

from nas.parent import running_cost
from nas.parent.parent import load_parent_model
from nas.parent.running_cost import check_memory, count_bytes, estimate_peak_bytes, measure_item_seconds
from pruning.inference import residency
from search_spaces.errors import UsageError

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the system alone decides")
GIB = 1 << 30


@pytest.fixture(scope="module")
def parent():
    return load_parent_model("python-lm")


@linux
def test_a_streamed_model_needs_three_blocks_and_what_is_beside_them(parent):
    streamed = load_parent_model("python-lm", stream_when="always")
    blocks = [count_bytes(block) for block in parent.model.get_submodule(parent.anatomy.stack)]
    whole = count_bytes(parent.model)
    assert estimate_peak_bytes(parent, GIB) == whole + GIB + GIB
    assert estimate_peak_bytes(streamed, GIB) == 3 * max(blocks) + whole - sum(blocks) + GIB + GIB
    weights = max(
        sum(p.numel() for p in block.parameters()) for block in parent.model.get_submodule(parent.anatomy.stack)
    )
    assert estimate_peak_bytes(parent, 5) == whole + 3 * 4 * weights + GIB  # copies in float32 while it was read


def test_what_does_not_fit_is_refused_with_the_repair(parent, monkeypatch):
    check_memory(parent, 0)
    monkeypatch.setattr(running_cost, "read_free_memory", lambda: GIB // 2)
    with pytest.raises(UsageError, match=r"python-lm needs about 1\.\d GiB .* 0\.5 GiB are free; take --stream always"):
        check_memory(parent, 0)


@linux
def test_a_model_is_streamed_by_itself_where_memory_is_scarce(monkeypatch):
    assert not residency.is_streamed(load_parent_model("python-lm", stream_when="auto").model)
    monkeypatch.setattr(residency, "read_free_memory", lambda: 1 << 20)
    assert residency.is_streamed(load_parent_model("python-lm", stream_when="auto").model)


def test_a_large_model_is_timed_by_one_block(parent, monkeypatch):
    split = parent.dataset.calibration
    monkeypatch.setattr(running_cost, "LARGE", 0)
    assert measure_item_seconds(parent, split) > 0
    assert not any(block._forward_hooks for block in parent.model.get_submodule(parent.anatomy.stack))


def test_unknown_devices_and_words_are_refused():
    with pytest.raises(UsageError, match="device 'tpu' is none of auto, cpu"):
        load_parent_model("python-lm", device="tpu")
    with pytest.raises(UsageError, match="stream 'sometimes' is none of auto, always, never"):
        load_parent_model("python-lm", stream_when="sometimes")


def test_blocks_are_streamed_on_the_cpu_only(parent):
    gpu = torch.device("cuda", 0)
    assert not residency.decides_to_stream("auto", parent.model, gpu)
    with pytest.raises(UsageError, match="blocks are streamed on the CPU; take --device cpu"):
        residency.decides_to_stream("always", parent.model, gpu)
