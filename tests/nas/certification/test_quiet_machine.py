"""What proves that a machine is busy, and how long a quiet one is waited for."""

import pytest

from latency_models.measurement import Measurement
from latency_models.workload import Workload
from nas.certification.quiet_machine import QuietWait, check_parent_moved, find_noise, find_slower_than_parent
from nas.progress import Silent
from search_spaces import Architecture, Kind, Schedule, Unit
from search_spaces.errors import MachineTooBusy

HERE = Workload.parse("forward")
PARENT = Architecture.parent(3)
PRUNED = PARENT.drop(Unit(0, Kind.MLP))


def test_a_parent_whose_latency_ranges_widely_is_noise() -> None:
    calm = Measurement(tuple(10.0 + 0.02 * turn for turn in range(100)), HERE)  # 10.2 to 11.8 ms
    bursts = Measurement((10.0,) * 85 + (25.0,) * 15, HERE)
    assert find_noise(calm, 90) is None
    message = find_noise(bursts, None)
    assert message is not None
    assert "ranges over 150 % of its median" in message
    assert "stays below 50 %" in message


def test_a_tail_counts_where_milliseconds_are_judged_by_it() -> None:
    rare = Measurement((10.0,) * 95 + (45.0,) * 5, HERE)
    assert find_noise(rare, None) is None
    assert find_noise(rare, 90) is None
    message = find_noise(rare, 99)
    assert message is not None
    assert "p99 of the parent is 4.5 x its median" in message


def test_a_pruned_candidate_slower_than_its_parent_is_noise_unless_it_drops_tokens() -> None:
    slower = Measurement((11.0,) * 20, HERE, (10.0,) * 20)
    few = Measurement((11.0,) * 4, HERE, (10.0,) * 4)
    hardly = Measurement((10.2,) * 20, HERE, (10.0,) * 20)
    tokens = PARENT.replace_tokens(Schedule.parse("1=0.5"))
    assert find_slower_than_parent({PRUNED: slower, tokens: slower, PARENT: slower}) == [PRUNED]
    assert find_slower_than_parent({PRUNED: few}) == find_slower_than_parent({PRUNED: hardly}) == []


@pytest.mark.parametrize(("now", "moved"), [(10.0, False), (12.4, False), (8.1, False), (12.6, True), (7.9, True)])
def test_a_parent_moved_when_its_median_changed_by_more_than_a_quarter(now: float, moved: bool) -> None:
    message = check_parent_moved(Measurement((10.0,) * 9, HERE), Measurement((now,) * 9, HERE))
    assert (message is not None) is moved


def test_a_quiet_machine_is_waited_for_longer_each_time_and_not_for_ever() -> None:
    passed, message = [0.0], []

    class Messages(Silent):
        def show_message(self, text: str) -> None:
            message.append(text)

    wait = QuietWait(Messages(), 100.0, lambda: sum(passed), passed.append)

    def measure_and_wait() -> None:
        for _ in range(20):
            wait("the parent ranges")
            passed.append(8.0)

    with pytest.raises(MachineTooBusy, match="this machine is too busy to certify: the parent ranges; ") as refused:
        measure_and_wait()
    assert refused.value.reason == "the parent ranges"
    assert 100 <= sum(passed) <= 108
    assert "this machine is busy: the parent ranges; measuring again in 5 s, for another 100 s at most" in message
    assert len(message) == 4  # after 5, 10, 20 and 33 s
