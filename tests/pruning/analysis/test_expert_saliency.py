"""The saliency of experts, computed by hand from the family's definition."""

import pytest
import torch
from families import build

from pruning.analysis.expert_saliency import order_experts


@torch.no_grad()
@pytest.mark.parametrize("real", [None, 5])
def test_experts_are_ordered_by_what_they_add_to_their_tokens(real: int | None) -> None:
    mlp = build("mixtral").model.layers[0].mlp
    states = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    marked = torch.arange(12) < (real or 12)
    _, weights, chosen = mlp.gate(states)
    found = order_experts(mlp.experts, (states, chosen, weights), marked)
    assert found is not None
    saliency = []
    for expert in range(4):
        added = []
        for token in range(real or 12):
            for place in range(2):
                if chosen[token, place] == expert:
                    gate, up = (mlp.experts.gate_up_proj[expert] @ states[token]).chunk(2)
                    output = mlp.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)
                    added.append(float(weights[token, place] * output.norm()))
        saliency.append(sum(added) / len(added) if added else 0.0)
    assert found.groups.tolist() == sorted(range(4), key=lambda at: -saliency[at])


def test_a_call_of_another_form_tells_nothing() -> None:
    experts = build("mixtral").model.layers[0].mlp.experts
    assert order_experts(experts, (torch.zeros(3, 32),), torch.ones(3, dtype=torch.bool)) is None
