"""Copies differ from the windows at a share of the tokens, by tokens that the parent holds likely there."""

import torch
from families import build, example

from nas.data.dataset import Split
from nas.healing.noisy_copies import add_noisy_copies


def test_copies_stand_behind_the_windows_and_differ_where_the_parent_would_write_otherwise() -> None:
    parent = build("llama")
    ids = example(parent, batch=6, tokens=40)["input_ids"]
    with torch.no_grad():
        likely = parent(input_ids=ids).logits[:, :-1].topk(3).indices
    parent.lm_head.weight.data *= 1e3  # sure of what it says: the likeliest is drawn
    made = add_noisy_copies(parent, Split("calibration", {"input_ids": ids}), 3, 0.3, seed=1).inputs["input_ids"]
    assert torch.equal(made[:6], ids)
    copies = made[6:].view(3, 6, 40)
    assert torch.equal(copies[:, :, 0], ids[:, 0].expand(3, 6))
    other = copies[:, :, 1:] != ids[:, 1:]
    assert 0.2 < other.float().mean() < 0.35
    assert not torch.equal(other[0], other[1])
    near = (copies[:, :, 1:, None] == likely).any(-1)
    assert near[other].float().mean() > 0.9  # bf16 may turn a tie


def test_the_seed_decides_and_no_copies_are_the_windows_themselves() -> None:
    parent = build("gpt2")
    split = Split("calibration", {"input_ids": example(parent, batch=4, tokens=20)["input_ids"]})
    one, again, other = (add_noisy_copies(parent, split, 1, 0.5, seed).inputs["input_ids"] for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert add_noisy_copies(parent, split, 0, 0.5, 0) is split
