"""What a kind of unit says of costs."""

from latency_models.block_shape import BlockShape
from latency_models.shape import ModelShape
from latency_models.workload import Workload


class Cost:
    """What levels of a kind make of a block, and of the tokens that are given to it; here: nothing.

    One is registered for every kind of `search_spaces.kinds.KINDS`, under the same name. It decides no milliseconds:
    those follow from the shape of what is left and from what that works on.

    Example:
        >>> narrower = COSTS["mlp-width"].resolve(shape, block, 500)  # half of the neurons
    """

    def resolve(self, shape: ModelShape, block: BlockShape, value: int) -> BlockShape:
        """What is left of a block of a parent of this shape at the level `value`."""
        return block

    def reduce(self, shape: ModelShape, workload: Workload, value: int) -> Workload | None:
        """What is left of the parent's workload from the unit's block on; None where all of it is."""
        return None
