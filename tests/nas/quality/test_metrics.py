"""Every metric is registered with what readers, averages and sweeps need to know of it."""

import math

import pytest

from nas.quality import Quality
from nas.quality.metrics import METRICS, Mean, find_metric
from search_spaces.errors import UsageError


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_metric_says_what_it_is_and_how_parts_make_a_whole(metric) -> None:
    assert METRICS[metric.name] is metric
    assert metric.label
    assert metric.meaning
    one, other = (
        Quality("kl", loss, False, "test", loss, {metric.name: value}, items)
        for loss, value, items in ((0.1, 2.0, 1), (0.4, 8.0, 3))
    )
    expected = {
        Mean.ARITHMETIC: (2.0 + 3 * 8.0) / 4, Mean.GEOMETRIC: math.exp((math.log(2) + 3 * math.log(8)) / 4),
    }  # fmt: skip
    joined = one.join(other)
    assert joined.others.get(metric.name) == pytest.approx(expected.get(metric.mean))
    assert joined.loss == pytest.approx((0.1 + 3 * 0.4) / 4)


def test_a_metric_that_is_not_registered_is_refused_and_does_not_vanish() -> None:
    with pytest.raises(UsageError, match=r"metric 'bleu' is none of kl, .* register it"):
        find_metric("bleu")
    quality = Quality("kl", 0.1, False, "test", 0.1, {"bleu": 0.3}, items=2)
    with pytest.raises(UsageError, match="bleu"):
        quality.join(quality)
