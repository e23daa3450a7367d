"""The work of a model under a workload: the arithmetic, the bytes and the launches of each of its parts."""

from collections.abc import Mapping
from dataclasses import dataclass

from latency_models.block_shape import Load, Part
from latency_models.resolved_blocks import find_parts, resolve_block, resolve_head
from latency_models.shape import ModelShape
from latency_models.targets import BYTES
from latency_models.token_workloads import Step, list_block_workloads, list_steps
from latency_models.workload import Phase, Workload
from search_spaces.architecture import Architecture
from search_spaces.schedule import Reducer, Reduction, Scorer, Source
from search_spaces.unit import Choice, Unit
from search_spaces.weight_formats import ALL_FORMATS

STEM_KERNELS, STAGE_KERNELS = 4, 10  # fused operators that a runtime launches
_ANY = "fp32"  # where only arithmetic is counted, which is the same in every precision


@dataclass(frozen=True)
class Work:
    """What a device does.

    Attributes:
        arithmetic: operations, two per multiply-add, by the precision in which they are computed.
        weight_bytes: of the parameters that are read.
        activation_bytes: of what else is read and written.
        kernels: fused operators that a runtime launches.
    """

    arithmetic: Mapping[str, float]
    weight_bytes: float
    activation_bytes: float
    kernels: int

    @property
    def flops(self) -> float:
        """Operations in all precisions together."""
        return sum(self.arithmetic.values())

    @property
    def bytes_moved(self) -> float:
        """Weights and activations together."""
        return self.weight_bytes + self.activation_bytes

    def __add__(self, other: "Work") -> "Work":
        precisions = self.arithmetic.keys() | other.arithmetic.keys()
        return Work(
            {name: self.arithmetic.get(name, 0.0) + other.arithmetic.get(name, 0.0) for name in sorted(precisions)},
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes + other.activation_bytes,
            self.kernels + other.kernels,
        )


NOTHING = Work({}, 0.0, 0.0, 0)


def get_element_bytes(part: Part, precision: str) -> int:
    """Bytes of one element that a part moves or keeps, on a target of this precision."""
    return BYTES[part.precision] if part.precision in BYTES else BYTES[precision]


def get_weight_bytes(part: Part, precision: str) -> float:
    """Bytes of one weight of a part, with its part of a scale, on a target of this precision."""
    own = part.precision or precision
    return BYTES[own] if own in BYTES else ALL_FORMATS[own].weight_bytes


def choose_arithmetic(part: Part | None, precision: str) -> str:
    """The precision in which a part is computed, on a target of this precision."""
    own = precision if part is None else part.precision or precision
    if own in BYTES:
        return own
    return ALL_FORMATS[own].arithmetic or precision


def compute_part_work(part: Part, load: Load, precision: str) -> Work:
    """One part of a block with its norm, on a target of this precision."""
    size, weight = get_element_bytes(part, precision), get_weight_bytes(part, precision)
    arithmetic = {choose_arithmetic(part, precision): part.count_flops(load)}
    return Work(arithmetic, weight * part.count_read(load), size * part.count_moved(load), part.kernels)


def compute_stem_work(
    shape: ModelShape, workload: Workload, precision: str, last: Workload | None = None, head: Part | None = None
) -> Work:
    """Everything outside the blocks: embedding, final norm, head. Prefill needs the last token's logits only.

    Args:
        last: what the last block works on, where it is less: a decoder's head sees those tokens; an encoder's output
            has its full length again.
        head: where it is another than the parent's.
    """
    per_token = shape.head_per_token and workload.phase is not Phase.PREFILL
    ends = last if last is not None and shape.causal else workload
    rows = ends.tokens if per_token else workload.batch
    weights, moved = shape.hidden * shape.outputs, 2 * workload.tokens * shape.hidden + rows * shape.outputs
    read = (BYTES[precision] if head is None else get_weight_bytes(head, precision)) * weights
    return Work({choose_arithmetic(head, precision): 2 * rows * weights}, read, BYTES[precision] * moved, STEM_KERNELS)


def compute_stage_work(shape: ModelShape, step: Step, reduction: Reduction, precision: str) -> Work:
    """Ranking and gathering at one stage: one query a sequence, the keys of all tokens, the hidden states moved.

    Norms and chance need no keys; a vision tower has ranked already. Merging compares half of the keys with the rest.
    """
    tokens, left = step.before.tokens, step.after.tokens
    ranked = reduction.scorer not in (Scorer.NORM, Scorer.RANDOM) and reduction.source is not Source.TOWER
    needs_keys = ranked or reduction.reducer is not Reducer.DROP
    weights = needs_keys * shape.hidden * shape.kv_heads * shape.head_dim
    flops = 2.0 * tokens * weights + 2 * tokens * shape.heads * shape.head_dim * ranked
    if reduction.reducer is Reducer.MERGE:
        flops += tokens * step.before.sequence / 2 * shape.head_dim
    moved = tokens * (2 * shape.hidden + needs_keys * shape.kv_heads * shape.head_dim) + left * shape.hidden
    return Work({precision: flops}, BYTES[precision] * weights, BYTES[precision] * moved, STAGE_KERNELS)


def compute_unit_work(shape: ModelShape, unit: Unit, workload: Workload, precision: str) -> Work:
    """The part of the parent that a unit is."""
    part, load = shape.get_block(unit.layer).parts[unit.kind], shape.compute_load(unit.layer, workload)
    return compute_part_work(part, load, precision)


def compute_changed_work(
    shape: ModelShape, choice: Choice, workload: Workload, precision: str
) -> list[tuple[Work, Work]]:
    """Of every part of the parent that a choice changes, what it does before and after; nothing where it is gone."""
    if not choice.kind.in_blocks:
        head = resolve_block(shape, choice.layer, [choice]).head
        before = compute_stem_work(shape, workload, precision)
        return [(before, compute_stem_work(shape, workload, precision, head=head))]
    load, left = shape.compute_load(choice.layer, workload), resolve_block(shape, choice.layer, [choice]).parts
    changed = ((part, left.get(kind)) for kind, part in shape.get_block(choice.layer).parts.items())
    return [
        (compute_part_work(before, load, precision), compute_part_work(after, load, precision) if after else NOTHING)
        for before, after in changed
        if before != after
    ]


def compute_model_work(shape: ModelShape, architecture: Architecture, workload: Workload, precision: str) -> Work:
    """The whole model."""
    return sum(list_works(shape, architecture, workload, precision), NOTHING)


def count_flops(shape: ModelShape, architecture: Architecture, workload: Workload) -> float:
    """Operations of the whole model, two per multiply-add."""
    return compute_model_work(shape, architecture, workload, _ANY).flops


def list_works(shape: ModelShape, architecture: Architecture, workload: Workload, precision: str) -> list[Work]:
    """What a device does one after the other: the stem, the parts that are left on the tokens they see, the stages."""
    seen, reduction = list_block_workloads(shape, architecture, workload), architecture.tokens.reduction
    parts = (
        compute_part_work(part, shape.compute_load(unit.layer, seen[unit.layer]), precision)
        for unit, part in find_parts(shape, architecture)
    )
    stages = (
        compute_stage_work(shape, step, reduction, precision) for step in list_steps(shape, architecture, workload)
    )
    stem = compute_stem_work(shape, workload, precision, seen[-1], resolve_head(shape, architecture))
    return [stem, *parts, *stages]
