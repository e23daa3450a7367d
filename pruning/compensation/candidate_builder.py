"""Candidates as they are judged and delivered: pruned, and what is left adjusted."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.part import get_token_mask
from pruning.compensation.calibration_pass import Adjusted
from pruning.compensation.compensator import Compensator, install_adjusted, list_compensated_prefixes
from pruning.compensation.method import DRAFT, METHODS, Method
from pruning.inference.prefix_cache import GIB, Prefix, list_prefixes
from pruning.surgery.block_library import BlockLibrary
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture

BIAS = "bias"
REVISION = 2  # of how weights are adjusted: evaluations of another one are not used
_NAME = "nas_compensation"  # on a candidate


@dataclass(frozen=True)
class CompensationPlan:
    """How candidates are adjusted.

    Attributes:
        method: a name in `METHODS`.
        draft: keyword inputs of the model: the calibration items for candidates while they are many.
        final: the calibration items for those that are left.
        bf16: whether the products of the passes over them are in bf16 (autocast); sums and solutions never are.

    Example:
        >>> plan = CompensationPlan("auto", draft=few, final=inputs)
        >>> candidate = CandidateBuilder(model, anatomy, plan).build(architecture)
    """

    method: str
    draft: Mapping[str, Tensor]
    final: Mapping[str, Tensor]
    bf16: bool = False

    def choose_method(self, final: bool) -> Method:
        """That of the candidates that are left, or of those that are many."""
        return METHODS[self.method] if final or self.method == BIAS else DRAFT

    def build_key(self, final: bool) -> str:
        """Names everything that the adjusted weights depend on besides parent and architecture."""
        name = self.method if final else f"draft-{self.choose_method(final).name}"
        arithmetic = "-bf16" if self.bf16 else ""
        return f"{name}{REVISION}{arithmetic}-{compute_digest(self.final if final else self.draft)}"


@dataclass(frozen=True)
class AdjustedProjection:
    """What became of one projection: the λ that was chosen, and the share of the held-out lack that is left."""

    layer: int
    path: str
    penalty: float
    unexplained: float


@dataclass(frozen=True)
class CompensationRecord:
    """How the weights of a model differ from its parent's, so that they can be made again.

    Attributes:
        items, tokens: of the calibration split.
        data: digest of those items.
        arithmetic: of products in the passes over them, bf16 or fp32.

    Example:
        >>> candidate = CandidateBuilder(model, anatomy, plan).build(architecture)
        >>> get_compensation(candidate).method
        'auto'
    """

    method: str
    revision: int
    items: int
    tokens: int
    data: str
    arithmetic: str
    projections: tuple[AdjustedProjection, ...]

    @property
    def summary(self) -> dict[str, Any]:
        """All but the single projections."""
        names = ("method", "items", "tokens", "data", "arithmetic")
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema_version": 1, **asdict(self), "projections": [asdict(each) for each in self.projections]}


@dataclass(frozen=True)
class Compensated:
    """What a built model carries of how it was adjusted."""

    record: CompensationRecord
    projections: tuple[Adjusted, ...]


class CandidateBuilder:
    """Builds the candidates of one parent; they share all weights that are not adjusted.

    Example:
        >>> model = CandidateBuilder(parent, read_anatomy(parent)).build(architecture)
    """

    def __init__(
        self, parent: Any, anatomy: Anatomy, plan: CompensationPlan | None = None, capacity: int = GIB
    ) -> None:
        """What candidates are built from.

        Args:
            plan: None leaves what is kept as it is in the parent.
            capacity: bytes that may be kept of adjusted candidates, for others that begin alike.
        """
        self.parent, self.anatomy, self.plan = parent, anatomy, plan
        self._library = BlockLibrary(parent, anatomy)
        self._capacity = capacity
        self._compensators: dict[bool, Compensator] = {}

    def build(self, architecture: Architecture, final: bool = True) -> Any:
        """The model of an architecture, in eval mode.

        Args:
            final: adjusted with all calibration items, else with a few.

        Raises:
            ArchitectureError: as `prune`.
        """
        model = prune(self.parent, architecture, anatomy=self.anatomy, library=self._library)
        if self.plan is not None and architecture.choices:
            adjusted = self._get_compensator(self.plan, final).adjust(architecture)
            install_adjusted(model, self.anatomy, architecture, adjusted)
            setattr(model, _NAME, Compensated(_describe(self.parent, self.plan, final, adjusted), adjusted))
        return model

    def list_prefixes(self, architecture: Architecture) -> list[Prefix]:
        """For every kept block, what the states that leave it depend on."""
        if self.plan is None and self.anatomy.resumes:
            merged = self.anatomy.merge_blocks(architecture)
            return list_prefixes(merged)
        return list_compensated_prefixes(self.anatomy, architecture)

    def _get_compensator(self, plan: CompensationPlan, final: bool) -> Compensator:
        if final not in self._compensators:
            inputs = plan.final if final else plan.draft
            self._compensators[final] = Compensator(
                self.parent, self.anatomy, inputs, plan.choose_method(final), self._library, self._capacity, plan.bf16
            )
        return self._compensators[final]


def get_compensation(model: Any) -> CompensationRecord | None:
    """How a model that a builder made was adjusted; None where it was not."""
    compensated = getattr(model, _NAME, None)
    return None if compensated is None else compensated.record


def list_adjusted(model: Any) -> tuple[Adjusted, ...]:
    """The projections of a model that a builder made whose weights are not its parent's."""
    compensated = getattr(model, _NAME, None)
    return () if compensated is None else compensated.projections


def compute_digest(inputs: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that name some inputs."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(inputs.items()):
        hashed.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.contiguous().cpu().numpy().tobytes())
    return hashed.hexdigest()[:16]


def _describe(parent: Any, plan: CompensationPlan, final: bool, adjusted: tuple[Adjusted, ...]) -> CompensationRecord:
    inputs = plan.final if final else plan.draft
    first = next(iter(inputs.values()))
    mask = get_token_mask(parent, inputs)
    tokens = int(mask.sum()) if mask is not None else first.numel() if first.ndim == 2 else len(first)  # or images
    projections = tuple(
        AdjustedProjection(each.layer, each.path, each.adjustment.penalty, round(each.adjustment.unexplained, 6))
        for each in adjusted
    )
    arithmetic = "bf16" if plan.bf16 else "fp32"
    digest = compute_digest(inputs)
    return CompensationRecord(plan.method, REVISION, len(first), tokens, digest, arithmetic, projections)
