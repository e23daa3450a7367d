"""What ranking costs, counted by a counter of products on models without weights."""

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Architecture, Reduction, Schedule, Scorer

PROMPT = 640


def llama(depth: int, hidden: int, intermediate: int, device: str) -> hf.LlamaForCausalLM:
    """Shaped as Llama-2-7B with 4096, 11008."""
    config = hf.LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=depth, num_attention_heads=hidden // 16,
        vocab_size=64, max_position_embeddings=1024, attn_implementation="eager",
    )  # fmt: skip
    with torch.device(device):
        return hf.LlamaForCausalLM(config).eval()


@torch.no_grad()
def products(depth: int, schedule: Schedule | None) -> int:
    model = llama(depth, 4096, 11008, "meta")
    if schedule is not None:
        anatomy = read_anatomy(llama(depth, 32, 48, "cpu"))  # the same names
        model = prune(model, Architecture(depth).replace_tokens(schedule), anatomy=anatomy)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, PROMPT, dtype=torch.long, device="meta"), use_cache=True, logits_to_keep=1)
    return counter.get_total_flops()


@pytest.mark.parametrize(("depth", "most"), [(32, 0.01), (8, 0.04)])
def test_ranking_costs_less_than_a_hundredth_of_what_is_left(depth: int, most: float) -> None:
    """Three stages that halve: keys of all tokens and one query each, against a ranking that multiplies nothing.

    0.9 % of the shortened model at 32 blocks; 3.7 % at 8, as the keys of three stages are of fewer blocks then.
    """
    text = ",".join(f"{depth * quarter // 4}={0.5**quarter}" for quarter in (1, 2, 3))
    free = products(depth, Schedule.parse(text, Reduction(Scorer.RANDOM)))
    ranked = products(depth, Schedule.parse(text, Reduction(Scorer.LAST)))
    keys = sum(2 * 4096 * 4096 * (36 + int((PROMPT - 36) * share)) for share in (1, 0.5, 0.25))
    assert keys < ranked - free < 1.01 * keys
    assert (ranked - free) / free < most
    assert free < 0.6 * products(depth, None)
