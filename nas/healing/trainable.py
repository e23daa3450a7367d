"""Which weights of a pruned model are trained, and how they become a plain model's again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.healing.adapters import find_linear_modules, inject_adapters, merge_adapters
from nas.request.choices import ALL, LORA, PROJECTIONS
from pruning.anatomy.anatomy import Anatomy
from pruning.checkpoint.stored_precision import round_as_stored
from pruning.compensation.sites import find_kept_layers, find_sites
from pruning.surgery.quantised_linear import QuantisedLinear
from pruning.surgery.trained_weights import mark_trained
from search_spaces.architecture import Architecture
from search_spaces.errors import UsageError

NO_ADAPTERS = (
    f"{LORA} and weights of fewer bits: what adapters learn would be rounded away when they are merged; train "
    f"{PROJECTIONS} or {ALL}"
)


@dataclass(frozen=True)
class TrainedWeights:
    """The weights of a pruned model that are trained.

    Attributes:
        model: whose they are.
        parameters: by name; these alone take gradients, and no other model has them.
        originals: by the names that the finished model has for them, what the changed weights were; other models,
            such as the parent, may have these too.
        adapters: paths of the modules that carry an adapter until `finish`.
    """

    model: Any
    parameters: dict[str, nn.Parameter]
    originals: dict[str, Tensor]
    adapters: tuple[str, ...] = ()

    def copy(self) -> dict[str, Tensor]:
        """Their values now, by name, on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def set(self, values: dict[str, Tensor]) -> None:
        """Give them values that were copied."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    @torch.no_grad()
    def finish(self) -> Any:
        """The model as a plain one that is not trained, on the CPU: adapters are merged into their matrices.

        What has changed is rounded to the dtype in which the parent's files have it, so that a folder is as large as
        before and nothing is lost when it is written.
        """
        merge_adapters(self.model, self.adapters)
        mark_trained(self.model)
        self.model.requires_grad_(False).to("cpu")
        for name, original in self.originals.items():
            parameter = self.model.get_parameter(name)
            parameter.copy_(round_as_stored(self.model, parameter, original.to("cpu")))
        return self.model


def choose_trained(
    model: Any, anatomy: Anatomy, architecture: Architecture, what: str, seed: int = 0
) -> TrainedWeights:
    """The weights to train; from then on these alone take gradients.

    They become the model's own: weights that it shares with its parent or with other candidates stay as they are.

    Args:
        model: pruned.
        anatomy: of its parent.
        architecture: of the model.
        what: `projections+norms` for the matrices that write to the residual stream and everything in the blocks that
            is one number for each feature (norms, biases, scales); `lora` for low-rank adapters of all linear modules
            in the blocks, and the same numbers; `all` for every parameter.
        seed: of the adapters' first values.

    Weights of fewer bits are trained as the numbers that they are rounded from; ternary ones stay as they are.

    Raises:
        UsageError: `lora`, and weights have fewer bits.
    """
    if what == LORA and any(isinstance(part, QuantisedLinear) for part in model.modules()):
        raise UsageError(NO_ADAPTERS)
    names = _list_names(model, anatomy, architecture, what)
    originals: dict[str, Tensor] = {name: model.get_parameter(name).detach() for name in names}
    _own_parameters(model, names)
    model.requires_grad_(False)
    adapters: tuple[str, ...] = ()
    if what == LORA:
        adapters = tuple(find_linear_modules(model, anatomy.stack))
        originals |= {f"{path}.weight": model.get_submodule(path).weight.detach() for path in adapters}
        inject_adapters(model, adapters, seed)
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    chosen = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return TrainedWeights(model, chosen, originals, adapters)


def _list_names(model: Any, anatomy: Anatomy, architecture: Architecture, what: str) -> list[str]:
    """Names of the parameters that are trained themselves."""
    matrices = _list_projections(anatomy, architecture) if what == PROJECTIONS else set()
    ternary = {id(part.weight) for part in model.modules() if isinstance(part, QuantisedLinear) and part.format.ternary}
    blocks = f"{anatomy.stack}."
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
        and id(parameter) not in ternary
        and (what == ALL or name in matrices or (name.startswith(blocks) and parameter.ndim <= 1))
    ]


def _own_parameters(model: Any, names: list[str]) -> None:
    """Replace parameters by copies; what was one parameter in several places is one again."""
    copies = {id(parameter): nn.Parameter(parameter.detach().clone()) for parameter in map(model.get_parameter, names)}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in copies:
                setattr(module, name, copies[id(parameter)])


def _list_projections(anatomy: Anatomy, architecture: Architecture) -> set[str]:
    """Names of the weights of all kept parts that write to the stream."""
    left = find_kept_layers(anatomy, architecture)
    return {
        f"{anatomy.stack}.{left.index(site.layer)}.{site.contribution.projection}.weight"
        for site in find_sites(anatomy, architecture)
        if site.contribution.projection is not None
    }
