"""Weights of fewer bits: what a candidate computes is what its file computes."""

import pytest
import torch
from unit_kind import MATRICES, UnitKindContract, architecture_of, block_of, read_parent

from pruning.surgery.linear import get_weight_matrix
from pruning.surgery.prune import prune
from search_spaces import Choice
from search_spaces.errors import ArchitectureError


def round_to_blocks(matrix: torch.Tensor, bits: int) -> torch.Tensor:
    """One block of 32 after another, each on a grid from its largest weight to the other side."""
    rounded = torch.zeros_like(matrix)
    for row in range(len(matrix)):
        for begin in range(0, matrix.shape[1], 32):
            block = matrix[row, begin : begin + 32]
            largest = block[block.abs().argmax()]
            scale = largest / -(2 ** (bits - 1))
            codes = torch.round(block / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            rounded[row, begin : begin + 32] = codes * scale
    return rounded


def round_row(matrix: torch.Tensor) -> torch.Tensor:
    """127 steps to either side of zero for each row."""
    scales = matrix.abs().amax(1, keepdim=True) / 127
    return torch.round(matrix / scales) * scales


def round_given(given: torch.Tensor, text: str) -> torch.Tensor:
    """8 bits: one grid for everything with `int8`, one for each 32 numbers otherwise."""
    if text == "int8":
        low, high = min(0.0, float(given.min())), max(0.0, float(given.max()))
        scale = (high - low) / 255
        zero = round(-low / scale)
        return (torch.clamp(torch.round(given / scale) + zero, 0, 255) - zero) * scale
    pieces = given.split(32, -1)
    scales = [piece.abs().amax(-1, keepdim=True) / 127 for piece in pieces]
    return torch.cat([torch.round(p / s.clamp(min=1e-30)) * s for p, s in zip(pieces, scales, strict=True)], -1)


class _BitsContract(UnitKindContract):
    def list_matrices(self, block, family) -> list[torch.nn.Module]:
        raise NotImplementedError

    def mask(self, model, family, choice) -> None:
        text = str(choice).rpartition("=")[2]
        for module in self.list_matrices(block_of(model, family, choice), family):
            matrix = get_weight_matrix(module).data
            matrix.copy_(round_row(matrix) if text == "int8" else round_to_blocks(matrix, int(text[1])))
            module.register_forward_pre_hook(lambda module, args: (round_given(args[0], text), *args[1:]))


class TestAttentionBits(_BitsContract):
    name = "attention-bits"
    choices = ("attention.1:bits=w8", "attention.1:bits=w4", "attention.1:bits=int8")

    def list_matrices(self, block, family):
        last = MATRICES[family][1]
        roots = {"bert": ["attention.self", last]}.get(family, [last.partition(".")[0]])
        found = [m for root in roots for m in block.get_submodule(root).modules()]
        return [m for m in found if getattr(m, "weight", None) is not None and m.weight.ndim == 2]


class TestMlpBits(_BitsContract):
    name = "mlp-bits"
    choices = ("mlp.1:bits=w8", "mlp.1:bits=w4", "mlp.1:bits=int8")

    def list_matrices(self, block, family):
        return [block.get_submodule(path) for path in (*MATRICES[family][2], MATRICES[family][3])] + (
            [block.mlp.gate_proj] if family == "llama" and "mlp.gate_proj" not in MATRICES[family][2] else []
        )


class TestHeadBits(_BitsContract):
    name = "head-bits"
    choices = ("head:bits=w8", "head:bits=w4", "head:bits=int8")

    def mask(self, model, family, choice) -> None:
        """An embedding with the same weights keeps its own."""
        head = self.list_matrices(model, family)[0]
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        super().mask(model, family, choice)

    def list_matrices(self, block, family):
        return [block.get_submodule({"vit": "classifier", "bert": "cls.predictions.decoder"}.get(family, "lm_head"))]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_quantised_head_stays_tied_to_the_embedding(family: str) -> None:
    parent, anatomy = read_parent(family)
    pruned = prune(parent, architecture_of("head:bits=w8"), anatomy=anatomy)
    assert pruned.get_output_embeddings().weight is pruned.get_input_embeddings().weight
    assert pruned.num_parameters() == parent.num_parameters()


@pytest.mark.parametrize("family", ["roberta", "dinov2"])
def test_without_a_head_there_is_nothing_to_choose(family: str) -> None:
    parent, anatomy = read_parent(family)
    assert anatomy.head is None
    with pytest.raises(ArchitectureError, match=rf"head:bits=w8: {family} cannot have it; leave it out"):
        prune(parent, architecture_of("head:bits=w8"), anatomy=anatomy)


def test_experts_of_a_mixture_keep_their_bits() -> None:
    parent, anatomy = read_parent("mixtral")
    assert not any(str(choice).startswith("mlp") and "bits" in str(choice) for choice in anatomy.choices)
    with pytest.raises(ArchitectureError, match=r"mlp\.1:bits=w4: block 1 of mixtral cannot have it"):
        prune(parent, architecture_of("mlp.1:bits=w4"), anatomy=anatomy)
    assert Choice.parse("attention.1:bits=w4") in anatomy.choices
