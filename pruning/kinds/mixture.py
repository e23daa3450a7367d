"""Mixtures of experts, read from their modules: what holds the experts, what sends tokens to them, and to how many."""

from dataclasses import dataclass

from torch import Tensor, nn

from pruning.anatomy.contribution import BlockAnatomy
from search_spaces.kinds import Kind

_STACKED = 3  # dimensions of the matrices of all experts
_CHOSEN = ("top_k", "num_experts_per_tok", "moe_top_k", "topk")  # what routers call the experts of a token


@dataclass(frozen=True)
class Mixture:
    """The mixture of a block.

    Attributes:
        root: path of the module within the block that holds experts and router.
        experts, router: paths within that module.
        count: experts.
        active: experts that a token is sent to.
    """

    root: str
    experts: str
    router: str
    count: int
    active: int

    def is_sized(self, tensor: Tensor) -> bool:
        """Whether a tensor has a row, or a matrix, for each expert."""
        return tensor.ndim > 0 and tensor.shape[0] == self.count

    def list_active_names(self, module: nn.Module) -> list[str]:
        """The attributes with which a module says to how many experts a token is sent."""
        return [name for name in _CHOSEN if vars(module).get(name) == self.active]


def find_mixture(block: nn.Module, anatomy: BlockAnatomy) -> Mixture | None:
    """The mixture of a block's MLP; None where there is none, or its experts do not lie in one module.

    The experts are the one module whose matrices have three dimensions, the router the one whose matrix has a row for
    each of them, and says how many a token is sent to.
    """
    part = anatomy.parts.get(Kind.MLP)
    for member in () if part is None else part.members:
        root = block.get_submodule(member)
        stacked = {path: module for path, module in root.named_modules() if path and _count_stacked(module)}
        if len(stacked) != 1:
            continue
        ((experts, module),) = stacked.items()
        count = _count_stacked(module)
        routers = {
            path: found
            for path, router in root.named_modules()
            if path not in ("", experts) and (found := _read_router(router, count))
        }
        if len(routers) == 1:
            ((router, active),) = routers.items()
            return Mixture(member, experts, router, count, active)
    return None


def _count_stacked(module: nn.Module) -> int:
    """How many experts the weights of a module are stacked of; 0 where they are not."""
    own = list(module.parameters(recurse=False))
    counts = {parameter.shape[0] for parameter in own}
    return counts.pop() if len(counts) == 1 and any(each.ndim == _STACKED for each in own) else 0


def _read_router(module: nn.Module, experts: int) -> int:
    """To how many experts a router sends a token; 0 where a module is none."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != _STACKED - 1 or len(weight) != experts:
        return 0
    return next((value for name in _CHOSEN if type(value := getattr(module, name, None)) is int), 0)
