"""The vision tower and the projector of a model that writes about images, as a function of images alone."""

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.errors import UnreadableModel

_GRID, _SIDE = "image_grid_thw", 2  # a grid of as many merged patches on each side
_SIZE_NAMES = ("image_sizes",)


def run_tower(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the projector hands to the language model, (image tokens of all images, width).

    Inputs that the tower does not take are left out.
    """
    taken = signature(model.get_image_features).parameters
    output = model.get_image_features(**{name: value for name, value in inputs.items() if name in taken})
    features = getattr(output, "pooler_output", output)
    several = [features] if isinstance(features, Tensor) else list(features)
    return torch.cat([each.reshape(-1, each.shape[-1]) for each in several])


def find_tower_path(model: Any) -> str:
    """The dotted name of the vision tower.

    Raises:
        UnreadableModel: there is no module of its config.
    """
    config = model.config.vision_config
    owners = [(path, getattr(module, "config", None)) for path, module in model.named_modules()]
    same = next((path for path, each in owners if each is config), None)
    path: str | None = same or next((path for path, each in owners if type(each) is type(config)), None)
    if path is None:
        raise UnreadableModel(f"{type(model).__name__}: looked for its vision tower and found none")
    return path


@torch.no_grad()
def make_image_inputs(model: Any, batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of the tower, in the first of the usual forms with which it runs.

    Raises:
        UnreadableModel: it runs with none.
    """
    reason = "its config says no size of images"
    for inputs in _list_forms(model, batch, generator):
        try:
            run_tower(model, inputs)
        except Exception as error:  # a family's own code, given another form than it takes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        else:
            return inputs
    raise UnreadableModel(
        f"{type(model).__name__}: looked for a vision tower that runs on an image and found that it fails ({reason})"
    )


def _list_forms(model: Any, batch: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """Patches in rows with a grid; images of one size, of which each item may have several; these and their sizes."""
    config, weight = model.config.vision_config, next(model.parameters())
    channels = next((n for name in ("num_channels", "in_channels", "in_chans") if (n := getattr(config, name, 0))), 3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(weight.device, weight.dtype)

    taken, size = signature(model.get_image_features).parameters, getattr(config, "image_size", None)
    if _GRID in taken:
        side = _SIDE * getattr(config, "spatial_merge_size", 1)
        width = channels * getattr(config, "temporal_patch_size", 1) * config.patch_size**2
        grid = torch.tensor([[1, side, side]] * batch, device=weight.device)
        yield {"pixel_values": draw(batch * side * side, width), _GRID: grid}
    if not isinstance(size, int | list | tuple):
        return
    height, wide = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    sizes = torch.tensor([[height, wide]] * batch, device=weight.device)
    for shape in ((batch, channels, height, wide), (batch, 1, channels, height, wide)):
        yield {"pixel_values": draw(*shape)}
        yield from ({"pixel_values": draw(*shape), name: sizes} for name in _SIZE_NAMES if name in taken)


@torch.no_grad()
def list_called_modules(model: Any, inputs: Mapping[str, Tensor]) -> list[nn.Module]:
    """The modules that images go through on their way to the language model, each once."""
    called: dict[nn.Module, None] = {}
    handles = [
        module.register_forward_pre_hook(lambda module, args: called.update({module: None}))
        for module in model.modules()
    ]
    try:
        run_tower(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(called)
