"""The part of a unit kind's contract that is about cost: the less of a unit is left, the less it costs."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import ClassVar

from latency_models.calibrated import CalibratedModel
from latency_models.datasheet_model import DataSheetModel
from latency_models.footprint import compute_memory
from latency_models.kinds import COSTS
from latency_models.measurement import Measurement
from latency_models.measurement_design import choose_schedules, design_measurements
from latency_models.profile import Profile, Record
from latency_models.resolved_blocks import resolve_blocks
from latency_models.shape import ModelShape
from latency_models.targets import find_target
from latency_models.terms import Terms
from latency_models.work import count_flops, list_works
from latency_models.workload import Workload
from search_spaces import KINDS, PARTS, Architecture, Level, Reduction, Space, Unit
from search_spaces.kinds import AFTER_BLOCKS

DEPTH = 4
DECODER = ModelShape(DEPTH, 1024, 16, 4, 64, 4096, True, 4096, True, True, 99, (None,) * DEPTH)
ENCODER = ModelShape(DEPTH, 768, 12, 12, 64, 3072, False, 10, False, False, 7, (None,) * DEPTH, tokens=577)
CASES = [
    (DECODER, Workload.parse("forward:batch=2,seq=512")),
    (DECODER, Workload.parse("prefill:batch=1,seq=1024")),
    (DECODER, Workload.parse("decode:batch=2,past=4096")),
    (ENCODER, Workload.parse("forward:batch=2,seq=577")),
]  # so much work that even the least of it is more than a token stage's own


class UnitCostContract:
    """What holds of the cost of every kind.

    Attributes:
        name: of the kind, as in `search_spaces.kinds.KINDS`.
        levels: of its slot, the ones that can be compared with each other, from the least that is left to the most;
            without the parent's.
    """

    name: ClassVar[str]
    levels: ClassVar[Sequence[Level]]
    cases: ClassVar[Sequence[tuple[ModelShape, Workload]]] = CASES

    def rising(self) -> list[Architecture]:
        """Block 1's unit at each level, the parent last."""
        slot, parent = KINDS[self.name].slot, Architecture.parent(DEPTH)
        unit = Unit(1 if slot.in_blocks else AFTER_BLOCKS, slot)
        return [*(parent.drop(unit.choose(level)) for level in self.levels), parent]

    def test_the_kind_has_a_cost(self) -> None:
        assert COSTS.keys() == KINDS.keys()

    def test_only_the_unit_s_own_block_is_another(self) -> None:
        for shape, _ in self.cases:
            for architecture in self.rising():
                blocks = resolve_blocks(shape, architecture)
                assert [blocks[layer] for layer in (0, 2, 3)] == [shape.get_block(layer) for layer in (0, 2, 3)]

    def test_less_of_a_unit_is_no_more_arithmetic_and_no_more_memory(self) -> None:
        for shape, workload in self.cases:
            flops = [count_flops(shape, architecture, workload) for architecture in self.rising()]
            held = [compute_memory(shape, architecture, workload, "fp16") for architecture in self.rising()]
            assert_rises(flops)
            for part in ("weights", "cache", "activations", "total"):
                assert_rises([getattr(each, part) for each in held])
            least, parent = held[0], held[-1]
            assert flops[0] < flops[-1] or least.cache < parent.cache or least.weights < parent.weights

    def test_less_of_a_unit_takes_no_longer_by_the_data_sheet(self) -> None:
        for shape, workload in self.cases:
            for target in ("jetson-orin", "a100/int8"):
                model = DataSheetModel(find_target(target), shape, workload)
                assert_rises([model.predict(architecture).ms for architecture in self.rising()])
                assert_rises([-model.predict_unit_ms(choice) for a in self.rising() for choice in a.choices])

    def test_less_of_a_unit_takes_no_longer_by_measurements(self) -> None:
        """Whether architectures with such levels were among the measured ones or not."""
        for measured in (replace(PLAIN, parts=self._space().parts), self._space()):
            model = fitted_to(measured, *self.cases[0])
            assert_rises([model.predict(architecture).ms for architecture in self.rising()], noise=1e-3)
            assert_rises([-model.predict_unit_ms(choice) for a in self.rising() for choice in a.choices])

    def test_levels_that_were_measured_are_told_apart(self) -> None:
        model, rising = fitted_to(self._space(), *self.cases[0]), self.rising()
        assert all(model.terms.covers(architecture) for architecture in rising)
        for architecture in rising:
            assert (
                abs(model.predict(architecture).ms / true_ms(architecture, *self.cases[0]) - 1) < 0.03
            )  # a head that sees fewer tokens is no term

    def _space(self) -> Space:
        slot = KINDS[self.name].slot
        layers = range(DEPTH) if slot.in_blocks else (AFTER_BLOCKS,)
        choices = {Unit(layer, slot).choose(level) for layer in layers for level in self.levels}
        reduction = None if KINDS[self.name].structural else Reduction()
        parts = tuple(self.cases[0][0].get_block(0).parts)
        return Space(DEPTH, (*PLAIN.choices, *choices), reduction=reduction, parts=parts)


PLAIN = Space.dropping(DEPTH, (Unit(layer, kind) for layer in range(DEPTH) for kind in PARTS))


def assert_rises(values: Sequence[float], noise: float = 0.0) -> None:
    """None is below the one before it by more than this share of it."""
    assert all(less <= more + noise * abs(less) + 1e-12 for less, more in pairwise(values)), values


def true_ms(architecture: Architecture, shape: ModelShape, workload: Workload) -> float:
    """Of a device that takes 20 us for whatever it is given to do, and a millisecond for 20 GFLOP."""
    return sum(0.02 + work.flops / 2e10 for work in list_works(shape, architecture, workload, "fp32"))


@cache
def fitted_to(space: Space, shape: ModelShape, workload: Workload) -> CalibratedModel:
    """The model of that device, which was measured without noise for the architectures of a space."""
    terms = Terms.of_space(shape, workload, space)
    schedules = choose_schedules(space, terms.compute_row) if terms.tokens else ()
    parent = true_ms(Architecture.parent(DEPTH), shape, workload)
    records = (
        Record(each, Measurement((true_ms(each, shape, workload),) * 15, workload, (parent,) * 15))
        for each in design_measurements(DEPTH, row=terms.compute_row, schedules=schedules, space=space)
    )
    return CalibratedModel(Profile({"device": "known"}, "digest", shape, workload, tuple(records)))
