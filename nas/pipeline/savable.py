"""What of a space can be saved and read again: found out before anything is searched."""

from dataclasses import replace

from nas.parent.parent import Subject
from pruning.checkpoint.writing import check_config, is_plain
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.servable import Servable
from search_spaces.space import Space
from search_spaces.unit import Kind, Unit


def savable(space: Space, subject: Subject, servable: Servable) -> Space:
    """The space without the blocks whose removal leaves no folder of the form that was asked for.

    Our own form keeps whatever a block takes from its place among the others. The plain classes build every block
    anew, so that only those may go that leave the others what they are.

    Raises:
        ModelError: the parent's config does not describe it.
        ArchitectureError: nothing is left to drop.
    """
    check_config(subject.model)
    if servable is not Servable.VANILLA:
        return space
    blocks = [unit for unit in space.units if unit.kind is Kind.BLOCK]
    if not blocks or _leaves_plain(subject, min(blocks)):  # which moves all others: nothing depends on the place
        return space
    units = tuple(unit for unit in space.units if unit.kind is not Kind.BLOCK or _leaves_plain(subject, unit))
    if not any(unit.kind is Kind.BLOCK for unit in units):
        raise ArchitectureError(
            f"servable {servable!s}: every block of {subject.id} depends on its place, so that plain classes would "
            "build others from what is left; take --servable any"
        )
    return replace(space, units=units)


def _leaves_plain(subject: Subject, block: Unit) -> bool:
    without = Architecture(subject.anatomy.depth).drop(block)
    return is_plain(prune(subject.model, without, anatomy=subject.anatomy, share_weights=True))
