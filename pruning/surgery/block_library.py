"""What stands in the blocks of a parent's candidates, built once for all of them."""

from typing import Any

from torch import nn

from pruning.anatomy.anatomy import Anatomy
from pruning.anatomy.copying import copy_module
from pruning.kinds import build_modules
from search_spaces.unit import Choice


class BlockLibrary:
    """The modules that take places in the blocks of one parent, by block and what is chosen for it.

    Each candidate gets copies that share their weights, so a narrower matrix takes memory once, however many
    candidates have it; it is kept as long as the library.

    Example:
        >>> library = BlockLibrary(model, anatomy)
        >>> candidates = [prune(model, each, anatomy=anatomy, library=library) for each in architectures]
    """

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        """`model` is the parent, `anatomy` its own."""
        self._model, self._anatomy = model, anatomy
        self._built: dict[tuple[int, tuple[Choice, ...]], dict[str, nn.Module]] = {}

    def take(self, layer: int, chosen: tuple[Choice, ...]) -> dict[str, nn.Module]:
        """The modules that stand in a block at these choices (`Architecture.list_block_choices`), by path in it.

        For the layer `AFTER_BLOCKS` those that stand behind the blocks, by path in the model.
        """
        if (layer, chosen) not in self._built:
            self._built[layer, chosen] = build_modules(*self._anatomy.get_place(self._model, layer), chosen)
        return {path: copy_module(module, share_tensors=True) for path, module in self._built[layer, chosen].items()}
