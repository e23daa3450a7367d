"""Dropping a part of a block: what contributes nothing takes its place."""

from dataclasses import dataclass

from torch import nn

from pruning.anatomy.contribution import BlockAnatomy, Contribution
from pruning.anatomy.probe import Call
from pruning.kinds.surgery import Surgery
from pruning.surgery.dropped import Dropped
from search_spaces.kinds import Kind
from search_spaces.level import DROP, Level
from search_spaces.unit import Choice, Unit


@dataclass(frozen=True)
class DroppedPart(Surgery):
    """The part `kind` goes with the norms and scales that only serve it; a norm that all parts read goes with all."""

    kind: Kind

    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """Dropped: that every block runs without its parts is found out when a model is read."""
        return (DROP,) if self.kind in anatomy.parts else ()

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """What returns zeros for the part's members, nothing for its norms and scales."""
        part = anatomy.get_contribution(self.kind)
        modules: dict[str, nn.Module] = dict(zip(part.members, map(Dropped, part.forms), strict=True))
        modules |= {path: nn.Identity() for path in part.after}
        alone = all(Unit(anatomy.index, kind).dropped in chosen for kind in anatomy.parts)
        return modules | {path: nn.Identity() for path in _find_norms_before(part, anatomy, alone)}

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        """Those of its members, norms and scales."""
        part = anatomy.get_contribution(self.kind)
        paths = (*part.members, *part.after, *_find_norms_before(part, anatomy, False))
        return sum(parameter.numel() for path in paths for parameter in block.get_submodule(path).parameters())


def _find_norms_before(part: Contribution, anatomy: BlockAnatomy, unshared: bool) -> tuple[str, ...]:
    """The norm that feeds a part, where no other part reads it and the block does not look at its weights."""
    if part.before is None or part.norm_stays:
        return ()
    return (part.before,) if unshared or part.before != anatomy.shared_norm else ()
