"""Everything that a result folder is written from."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from latency_models.energy_model import EnergyModel, has_energy
from latency_models.footprint import Memory, compute_memory
from latency_models.model import LatencyModel
from nas.certification.search_context import SearchContext
from nas.pipeline.healed_winner import HealedWinner
from nas.quality import Quality
from nas.results.certificate import Certificate
from nas.results.finalists import Finalist
from nas.search import Candidate, SearchOutcome
from nas.search.unit_savings import UnitSavings
from pruning.inference.device import CPU, find_device, place
from pruning.surgery.block_library import BlockLibrary
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture


@dataclass(frozen=True)
class Delivery:
    """Everything that goes into a result folder.

    `held_out` is test quality by architecture digest, of candidates as the search judged them; `data` is the digest of
    every split by its name. `finalists` are the best candidates, `healed` is the winner where it was trained.
    """

    context: SearchContext
    latency: LatencyModel  # as it is in the end
    outcome: SearchOutcome
    certificate: Certificate
    held_out: dict[str, Quality]
    evaluations: int  # computed in this run, others were known
    unit_savings: tuple[UnitSavings, ...]
    data: dict[str, str] = field(default_factory=dict)
    finalists: tuple[Finalist, ...] = ()
    healed: HealedWinner | None = None

    @property
    def winner_folder(self) -> Path:
        """OUT/winner."""
        return self.context.request.out / "winner"

    def prune(self, architecture: Architecture) -> Any:
        """The model of an architecture, with the parent's weights."""
        return prune(
            self.context.parent.model, architecture, anatomy=self.context.parent.anatomy, library=self._library
        )

    @cached_property
    def winner(self) -> Any:
        """The winner as it is delivered: adjusted, trained where that was asked for."""
        if self.healed is not None:
            return self.healed.model
        return place(self.context.builder.build(self.outcome.winner.architecture), find_device(CPU))

    def get_tested(self, candidate: Candidate) -> Quality:
        """The test quality of the parent, the winner as it is delivered, the runner-up or a baseline."""
        if self.healed is not None and candidate is self.outcome.winner:
            return self.healed.tested
        return self.held_out[candidate.architecture.digest]

    @cached_property
    def _library(self) -> BlockLibrary:
        return BlockLibrary(self.context.parent.model, self.context.parent.anatomy)

    def compute_memory(self, architecture: Architecture) -> Memory:
        """What it holds on the target under the workload."""
        return compute_memory(
            self.context.parent.shape, architecture, self.context.workload, self.context.target.precision
        )

    def predict_ms(self, architecture: Architecture) -> float:
        """At the asked percentile, by the latency model as it is in the end: candidates were found by earlier ones."""
        return self.latency.predict(architecture, self.context.request.percentile).ms

    @cached_property
    def scale_budget_ms(self) -> float:
        """The budget in the milliseconds of `predict_ms`. A certificate's own are of another session of the machine."""
        return self.context.request.budget.resolve(self.predict_ms(self.outcome.parent.architecture))

    def predict_joules(self, architecture: Architecture) -> float | None:
        """Of one inference on the target; None where no energy was measured."""
        return None if self._energy is None else self._energy.predict_joules(architecture)

    @cached_property
    def _energy(self) -> EnergyModel | None:
        profile = self.latency.profile
        return EnergyModel(profile) if profile is not None and has_energy(profile) else None
