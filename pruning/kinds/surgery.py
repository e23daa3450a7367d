"""What a kind of unit makes of the modules of a block."""

from torch import nn

from pruning.anatomy.contribution import BlockAnatomy
from pruning.anatomy.probe import Call
from pruning.surgery.channel_order import Cut
from search_spaces.level import Level
from search_spaces.unit import Choice


class Surgery:
    """Which levels of a kind a block can have, and what stands in it then; here: none, and nothing.

    One is registered for every kind of `search_spaces.kinds.KINDS`, under the same name.

    Example:
        >>> saved = SURGERIES["mlp"].count_saved(block, anatomy.blocks[0], DROP)
    """

    def find_levels(self, call: Call, anatomy: BlockAnatomy) -> tuple[Level, ...]:
        """The levels besides the parent's that a search may choose for a block.

        Args:
            call: of the block with random weights in float32 on a tiny input; it may be run again, to try a level.
            anatomy: of the block.
        """
        return ()

    def build_modules(
        self, block: nn.Module, anatomy: BlockAnatomy, level: Level, chosen: tuple[Choice, ...]
    ) -> dict[str, nn.Module]:
        """The modules that stand in a block in place of the parent's, by path within it.

        Args:
            block: the parent's; it stays as it is.
            anatomy: of the block.
            level: of the unit of this kind.
            chosen: everything that is chosen for the block.
        """
        return {}

    def find_cut(self, block: nn.Module, anatomy: BlockAnatomy) -> Cut | None:
        """The projection whose inputs levels of this kind cut, where they cut any."""
        return None

    def count_saved(self, block: nn.Module, anatomy: BlockAnatomy, level: Level) -> int:
        """How many parameters of the parent's block are gone at a level, were it the only one chosen."""
        return 0

    def count_saved_bytes(self, block: nn.Module, anatomy: BlockAnatomy, level: Level, size: int) -> float:
        """How many bytes fewer the weights of the block take in a file at a level, were it the only one chosen.

        Args:
            size: bytes of one of the parent's.
        """
        return size * self.count_saved(block, anatomy, level)
