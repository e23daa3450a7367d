"""Models of Llama's maths, block by block, for programs that know these and what a block may lack.

RMS norms before each part, gated MLPs with SiLU, rotary positions, no norm of queries and keys, no biases.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas.formats.format import Refusal
from nas.formats.source import Source
from pruning.anatomy.language_model import find_language_config
from pruning.surgery.dropped import Dropped
from pruning.surgery.quantised_linear import QuantisedLinear
from search_spaces.architecture import Architecture
from search_spaces.kinds import Kind
from search_spaces.level import DROP
from search_spaces.unit import Choice, Unit
from search_spaces.weight_formats import WeightFormat

_FAMILIES = ("llama", "mistral")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_STEP = 256  # widths are multiples of it there


@dataclass(frozen=True)
class LlamaBlock:
    """One block that is left.

    Attributes:
        attention, mlp: matrices (out, in) by name; empty where the part is dropped.
        norms: weights of the norms of the parts that are there, by the block's own names.
        formats: of fewer bits, by the names of the matrices that have one.
    """

    attention: dict[str, Tensor]
    mlp: dict[str, Tensor]
    norms: dict[str, Tensor]
    formats: Mapping[str, WeightFormat] = field(default_factory=dict)

    def count_heads(self, size: int) -> tuple[int, int]:
        """Heads of queries and of keys, of a size; none of an attention that is dropped."""
        if not self.attention:
            return 0, 0
        return len(self.attention["q_proj"]) // size, len(self.attention["k_proj"]) // size

    @property
    def width(self) -> int:
        """Neurons of the MLP; none of one that is dropped."""
        return len(self.mlp["gate_proj"]) if self.mlp else 0


def is_narrower(choice: Choice) -> bool:
    """Whether a level gives a part fewer neurons, and nothing else."""
    return {axis for axis, _ in choice.level.axes} == {"width"}


def find_llama_refusal(source: Source, takes: Callable[[Choice], bool] = is_narrower) -> Refusal | None:
    """Why a model is not one of these, or has a block that is not; None where it is.

    Args:
        takes: whether a program takes a level at which a part is not dropped.
    """
    model = source.model
    config = find_language_config(model)
    if model.config is not config or config.model_type not in _FAMILIES or not hasattr(model, "lm_head"):
        return Refusal(f"only decoders of {' and '.join(_FAMILIES)} fit, not {type(model).__name__}")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        return Refusal(f"a window of {window} tokens is not known there, and would be left out in silence")
    if config.hidden_act != "silu" or any(name.endswith("proj.bias") for name, _ in model.named_parameters()):
        return Refusal("biases of matrices, and activations other than silu, would be left out in silence")
    if config.rope_parameters.get("rope_type", "default") != "default":
        return Refusal(f"positions of type {config.rope_parameters['rope_type']} are not written")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        return Refusal("the size of a head is taken there to be that of the stream over their number")
    architecture = source.architecture
    if architecture is None:
        return None
    if architecture.tokens.stages:
        return Refusal("tokens are dropped in no program but ours", architecture.structure)
    return _refuse_levels(architecture, takes) or _refuse_first(architecture)


def _refuse_levels(architecture: Architecture, takes: Callable[[Choice], bool]) -> Refusal | None:
    """Where a part has a level that the program does not know."""
    changed = [choice for choice in architecture.choices if choice.level != DROP and not takes(choice)]
    if not changed:
        return None
    words = ", ".join(map(str, sorted(changed)))
    return Refusal(f"{words}: that level is not known there", architecture.restore(*changed))


def _refuse_first(architecture: Architecture) -> Refusal | None:
    """Where the first block that is left has no attention: programs take the length of a text from its cache."""
    removed = architecture.list_removed_blocks()
    first = next(layer for layer in range(architecture.depth) if layer not in removed)
    if architecture.runs(first, Kind.ATTENTION):
        return None
    unit = Unit(first, Kind.ATTENTION)
    return Refusal(f"without {unit}, the first one, programs fail or take the text to be empty",
                   architecture.restore(unit))  # fmt: skip


def read_llama_blocks(model: Any) -> Iterator[LlamaBlock]:
    """The blocks that are left, in order."""
    for block in model.model.layers:
        attention, mlp = _read_part(block.self_attn, _ATTENTION), _read_part(block.mlp, _MLP)
        norms = {}
        if attention:
            norms["input_layernorm"] = block.input_layernorm.weight.detach()
        if mlp:
            norms["post_attention_layernorm"] = block.post_attention_layernorm.weight.detach()
        yield LlamaBlock(attention, mlp, norms, _read_formats(block))


def _read_part(part: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    if isinstance(part, Dropped):
        return {}
    return {name: getattr(part, name).weight.detach().float() for name in names}


def _read_formats(block: nn.Module) -> dict[str, WeightFormat]:
    """Those of a block's matrices, by their names."""
    named = ((name.rpartition(".")[2], module) for name, module in block.named_modules())
    return {name: module.format for name, module in named if isinstance(module, QuantisedLinear)}


def pad_mlp(matrices: dict[str, Tensor], hidden: int, step: int = _STEP) -> dict[str, Tensor]:
    """An MLP of the next multiple of `step` neurons, at least one: those that are added are zero and change nothing."""
    if not matrices:
        rows, columns = torch.zeros(step, hidden), torch.zeros(hidden, step)
        return {"gate_proj": rows, "up_proj": rows.clone(), "down_proj": columns}
    missing = -len(matrices["gate_proj"]) % step
    return {
        name: nn.functional.pad(matrix, (0, missing) if name == "down_proj" else (0, 0, 0, missing))
        for name, matrix in matrices.items()
    }


def convert_to_stored(source: Source, tensor: Tensor) -> Tensor:
    """A weight in the precision of the model's own files, where that holds it exactly."""
    config = json.loads((source.folder / "config.json").read_text())
    stored = tensor.to(getattr(torch, str(config.get("dtype", "float32"))))
    return stored.contiguous() if torch.equal(stored.float(), tensor.float()) else tensor.float().contiguous()
