"""Workloads and targets read what people type and refuse the rest with the nearest thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.targets import find_target, list_aliases, list_targets
from latency_models.workload import Phase, Workload
from search_spaces.errors import BadWorkload, UnknownTarget

COUNTS = st.integers(1, 4096)


@given(st.one_of(
    st.builds(Workload, st.sampled_from([Phase.FORWARD, Phase.PREFILL]), COUNTS, COUNTS),
    st.builds(lambda batch, past: Workload(Phase.DECODE, batch, 1, past), COUNTS, COUNTS),
))  # fmt: skip
def test_workloads_round_trip(workload: Workload) -> None:
    assert Workload.parse(str(workload)) == workload


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train:batch=2", "phase 'train'"),
        ("forward:batch=two", "'batch=two'"),
        ("forward:tokens=3", "'tokens=3'"),
        ("forward:batch=0", "at least 1"),
        ("forward:past=5", "only decode"),
        ("decode:seq=5", "one token"),
        ("forward:seq=8,batch=1,seq=9", "seq is given twice"),
        ("forward:batch=" + "9" * 5000, "none of batch=N"),
        ("", "phase ''"),
    ],
)
def test_wrong_workloads_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadWorkload, match=says):
        Workload.parse(text)


def test_every_target_is_found_by_its_own_name_in_any_case() -> None:
    for target in list_targets():
        assert find_target(target.name.upper()).name == target.name
    assert len({target.name for target in list_targets()}) == len(list_targets())


def test_jetson_orin_is_an_alias_that_says_so() -> None:
    target = find_target("jetson-orin")
    assert target.name == "jetson-agx-orin-64gb@maxn/fp16" == list_aliases()["jetson-orin"]
    # 16 SM at 1300 MHz against 8 SM at 612 MHz.
    assert "0.24 x its arithmetic" in target.note
    assert "4.2 x as long" in target.note


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ("jetson-orin@30w", "jetson-agx-orin-64gb@30w/fp16"),
        ("jetson-orin/int8", "jetson-agx-orin-64gb@maxn/int8"),
        ("jetson-orin@15W/int8", "jetson-agx-orin-64gb@15w/int8"),
        ("jetson-orin-nx", "jetson-orin-nx-16gb@15w/fp16"),
        ("a100/int8", "a100-sxm-80gb/int8"),
    ],
)
def test_an_alias_takes_a_mode_and_a_precision(typed: str, full: str) -> None:
    assert find_target(typed).name == full
    assert f"stands for {full}" in find_target(typed).note


@pytest.mark.parametrize(
    ("name", "tflops", "bandwidth"),
    [
        ("jetson-agx-orin-64gb@maxn/fp16", 42.6, 204.8),
        ("jetson-agx-orin-64gb@maxn/int8", 85.2, 204.8),
        ("jetson-agx-orin-64gb", 10.0, 204.8),  # the default 30 W mode
        ("jetson-orin-nx-16gb@25w", 6.7, 102.4),
        ("jetson-orin-nx-16gb@maxn", 15.0, 102.4),
        ("jetson-orin-nx-8gb@maxn", 12.5, 102.4),
        ("jetson-orin-nx-16gb@40w-super", 19.2, 102.4),
        ("jetson-agx-orin-32gb@maxn/int8", 54, 204.8),
        ("jetson-orin-nano-4gb", 5.1, 34.1),
        ("jetson-orin-nano-8gb@15w", 10.2, 68.3),
        ("jetson-orin-nano-8gb@maxn-super", 16.7, 102.4),
        ("l4", 121, 300),
    ],
)
def test_peaks_are_those_of_the_data_sheets(name: str, tflops: float, bandwidth: float) -> None:
    target = find_target(name)
    assert target.sheet is not None
    assert target.sheet.peaks[target.precision] == pytest.approx(tflops, rel=0.01)
    assert target.sheet.bandwidth == pytest.approx(bandwidth, rel=0.01)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(UnknownTarget, match="jetson-orin"):
        find_target("jetson-orrin")
    with pytest.raises(UnknownTarget, match="nearest"):
        find_target("l4/int3")
    with pytest.raises(UnknownTarget, match="jetson-agx-orin-64gb@"):
        find_target("jetson-orin@99w")
