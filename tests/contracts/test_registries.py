"""A kind of unit is known everywhere or nowhere."""

from nas.export.kinds import EDITS
from pruning.kinds import SURGERIES
from search_spaces import KINDS


def test_every_layer_knows_every_kind() -> None:
    from latency_models.kinds import COSTS

    assert set(KINDS) == set(SURGERIES) == set(COSTS) == set(EDITS)
