"""What of a space can be saved and read again: found out before anything is searched."""

from dataclasses import replace

from nas.parent.parent import ParentModel
from pruning.checkpoint.writing import check_config, is_plain
from pruning.surgery.prune import prune
from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError
from search_spaces.rules import SWALLOWS
from search_spaces.servable import Servable
from search_spaces.space import Space
from search_spaces.unit import Choice


def restrict_to_savable(space: Space, parent: ParentModel, servable: Servable) -> Space:
    """The space without the blocks whose removal leaves no folder of the form that was asked for.

    Our own form keeps whatever a block takes from its place among the others. The plain classes build every block
    anew, so that only those may go that leave the others what they are.

    Raises:
        ModelError: the parent's config does not describe it.
        ArchitectureError: nothing is left to drop.
    """
    check_config(parent.model)
    if servable is not Servable.VANILLA:
        return space
    blocks = [choice for choice in space.choices if choice.unit.kind in SWALLOWS]
    if not blocks or _leaves_plain(parent, min(blocks)):  # which moves all others: nothing depends on the place
        return space
    chosen = tuple(choice for choice in space.choices if choice not in blocks or _leaves_plain(parent, choice))
    if not set(blocks) & set(chosen):
        raise ArchitectureError(
            f"servable {servable!s}: every block of {parent.id} depends on its place, so that plain classes would "
            "build others from what is left; take --servable any"
        )
    return replace(space, choices=chosen)


def _leaves_plain(parent: ParentModel, block: Choice) -> bool:
    without = Architecture(parent.anatomy.depth).drop(block)
    return is_plain(prune(parent.model, without, anatomy=parent.anatomy, share_weights=True))
