"""A quick look at some architectures: what is compared, what is kept."""

from types import SimpleNamespace

import pytest

from latency_models.measurement import Measurement
from latency_models.profile import Record
from latency_models.shape import ModelShape
from latency_models.workload import Workload
from nas.profiling.effort import Effort
from nas.profiling.host_profile import measure_ms
from search_spaces import Architecture, Kind, Unit

HERE = Workload.parse("forward")
SHAPE = ModelShape(
    depth=2, hidden=8, heads=1, kv_heads=1, head_dim=8, intermediate=16, gated=False, outputs=0,
    head_per_token=False, causal=False, stem=8, window=(None,) * 2,
)  # fmt: skip
PARENT = Architecture.parent(2)
EARLY, LATE = PARENT.drop(Unit(0, Kind.MLP)), PARENT.drop(Unit(1, Kind.MLP))


def test_a_machine_that_slows_down_between_two_does_not_count_against_the_later(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one takes 0.7 of the parent on a machine three times slower, the earlier one 0.8."""
    looks: list[list[Architecture]] = []
    times = {PARENT: ((10.0, 10.0, 30.0), (10.0, 10.0, 30.0)), EARLY: ((8.0,) * 3, (10.0,) * 3),
             LATE: ((21.0,) * 3, (30.0,) * 3)}  # fmt: skip

    def look(model: object, graphs: object, chosen: list[Architecture], workload: Workload, effort: Effort):
        looks.append(chosen)
        return tuple(Record(a, Measurement(times[a][0], workload, times[a][1])) for a in chosen)

    monkeypatch.setattr("nas.profiling.host_profile.measure_architectures", look)
    parent = SimpleNamespace(cache=tmp_path, model=None, digest="digest", shape=SHAPE, anatomy=SimpleNamespace(depth=2))
    export = SimpleNamespace(graphs=None)
    every = [PARENT, EARLY, LATE]
    assert measure_ms(parent, export, HERE, every) == pytest.approx([10.0, 8.0, 7.0])
    assert measure_ms(parent, export, HERE, every) == pytest.approx([10.0, 8.0, 7.0])
    assert looks == [every]  # once, then kept
