"""Which weights of a pruned model are trained."""

from typing import Any

from torch import nn

from nas.healing.recipe import ALL
from pruning.anatomy.anatomy import Anatomy
from pruning.compensation.sites import find_kept_layers, find_sites
from search_spaces.architecture import Architecture


def choose_trained(model: Any, anatomy: Anatomy, architecture: Architecture, what: str) -> dict[str, nn.Parameter]:
    """The parameters to train, by name; from then on these alone take gradients.

    Args:
        model: pruned.
        anatomy: of its parent.
        architecture: of the model.
        what: `projections+norms` for the matrices that write to the residual stream and everything in the blocks that
            is one number for each feature (norms, biases, scales); `all` for every parameter.
    """
    names = None if what == ALL else _list_projections(anatomy, architecture)
    blocks = f"{anatomy.stack}."
    chosen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
        and (names is None or name in names or (name.startswith(blocks) and parameter.ndim <= 1))
    }
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def _list_projections(anatomy: Anatomy, architecture: Architecture) -> set[str]:
    """Names of the weights of all kept parts that write to the stream."""
    left = find_kept_layers(anatomy, architecture)
    return {
        f"{anatomy.stack}.{left.index(site.layer)}.{site.contribution.projection}.weight"
        for site in find_sites(anatomy, architecture)
        if site.contribution.projection is not None
    }
