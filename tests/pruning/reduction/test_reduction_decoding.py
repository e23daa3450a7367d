"""A decoder with fewer tokens and a cache decodes as its parent does without one, told to look past those tokens.

The truth knows nothing of shorter sequences or caches: every block of the parent sees all tokens, and those that a
stage dropped are masked out of its attention (and, where numbered anew, the others get their new positions).
"""

from typing import Any

import pytest
import torch
from families import DECODERS, build, example, mark_rest_slow
from torch import Tensor

from pruning.anatomy.anatomy import read_anatomy
from pruning.reduction.hooks import BlockEntry
from pruning.surgery.prune import prune
from search_spaces import Architecture, Kind, Positions, Reduction, Schedule, Scorer, Unit
from search_spaces.architecture import drop_from_parent

PROMPT, STEPS = 48, 4  # 4 + 32 stay, 12 may go
STAGES = {1: 6, 3: 3}  # block: droppable tokens that are left
TEXT = "1=0.5,3=0.25"
OWN_POSITIONS = ("opt",)  # positions from the mask, not from position_ids


def reduced(model: Any, *dropped: Unit, **choices: Any) -> Any:
    schedule = Schedule.parse(TEXT, Reduction(**choices))
    return prune(model, drop_from_parent(4, dropped).replace_tokens(schedule))


def watch(model: Any, stack: str) -> dict[int, Tensor]:
    """Filled by the next pass: for every stage the indices (batch, tokens) of those that reach it."""
    found: dict[int, Tensor] = {}
    for index, block in enumerate(model.get_submodule(stack)):
        entry = next((hook for hook in block._forward_pre_hooks.values() if isinstance(hook, BlockEntry)), None)
        if index in STAGES and entry is not None:

            def note(_: Any, __: Any, ___: Any, index: int = index, entry: BlockEntry = entry) -> None:
                if entry.hooks.now is not None:
                    found[index] = entry.hooks.now.indices

            block.register_forward_hook(note)
    return found


def seen_by(window: int | None, kept: Tensor, valid: Tensor) -> Tensor:
    """(batch, 1, tokens, tokens): kept tokens see kept ones up to themselves, at most `window` of them."""
    order = kept.cumsum(1)
    ago = order[:, :, None] - order[:, None, :]
    near = (ago >= 0) & (torch.ones_like(ago[0]).bool().tril()[None])
    if window is not None:
        near = near & (ago < window)
    mask = near & (kept & valid)[:, None, :]
    return (mask | torch.eye(kept.shape[1]).bool())[:, None]  # no empty row


def windows(model: Any) -> list[int | None]:
    from transformers import DynamicCache

    return [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]


@torch.no_grad()
def truth(model: Any, stack: str, ids: Tensor, valid: Tensor, indices: dict[int, Tensor], compacted: bool) -> Tensor:
    """Logits of the last token of sequences that begin with a prompt whose tokens `indices` tells."""
    numbers = (valid.long().cumsum(1) - 1).clamp(min=0)
    blocks, sizes = model.get_submodule(stack), windows(model)
    kept = torch.ones_like(valid)
    rotaries = [m for name, m in model.named_modules() if name.endswith("rotary_emb")]
    kinds = getattr(model.config, "layer_types", None) or [None] * 4
    handles = []
    for index, block in enumerate(blocks):
        if index in indices:
            kept = torch.ones_like(valid)
            kept[:, :PROMPT] = torch.zeros_like(valid[:, :PROMPT]).scatter(1, indices[index], True)
        mask = seen_by(sizes[index], kept, valid)
        if model.config._attn_implementation == "eager":
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        new = ((kept & valid).long().cumsum(1) - 1).clamp(min=0)

        def change(
            module: Any,
            args: Any,
            kwargs: Any,
            mask: Tensor = mask,
            new: Tensor = new,
            kind: str | None = kinds[index],
        ) -> Any:
            kwargs = {**kwargs, "attention_mask": mask}
            if compacted and kwargs.get("position_embeddings") is not None:
                more = (kind,) if "gemma3" in model.config.model_type else ()
                kwargs["position_embeddings"] = rotaries[0](args[0], new, *more)
            return args[:1], kwargs

        handles.append(block.register_forward_pre_hook(change, with_kwargs=True))
    own = {} if model.config.model_type in OWN_POSITIONS else {"position_ids": numbers}
    logits = model(input_ids=ids, attention_mask=valid.long(), use_cache=False, **own).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits


def greedy(model: Any, stack: str, ids: Tensor, valid: Tensor, indices: dict[int, Tensor], compacted: bool) -> Any:
    """Tokens and logits of greedy decoding, everything computed at every step."""
    steps = []
    for _ in range(STEPS):
        logits = truth(model, stack, ids, valid, indices, compacted)
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
        valid = torch.cat((valid, torch.ones_like(valid[:, :1])), 1)
        steps.append(logits)
    return ids, torch.stack(steps, 1)


@pytest.mark.parametrize("positions", Positions)
@pytest.mark.parametrize("family", mark_rest_slow(DECODERS))
@torch.no_grad()
def test_a_reduced_prompt_decodes_as_its_parent_looking_past_the_dropped(family: str, positions: Positions) -> None:
    """Left padding of one row, several stages, sliding windows that count the tokens that are left."""
    model = build(family)
    stack = read_anatomy(model).stack
    small = reduced(model, positions=positions)
    ids, valid = example(model, 2, PROMPT)["input_ids"], torch.ones(2, PROMPT, dtype=torch.bool)
    valid[1, :7] = False
    indices = watch(small, stack)
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = small.generate(
        input_ids=ids, attention_mask=valid.long(), output_logits=True, return_dict_in_generate=True, **settings
    )
    assert [tuple(indices[stage].shape) for stage in (1, 3)] == [(2, 42), (2, 39)]
    tokens, logits = greedy(model, stack, ids, valid, indices, positions is Positions.COMPACTED)
    assert torch.equal(out.sequences, tokens)
    torch.testing.assert_close(torch.stack(out.logits, 1), logits, rtol=1e-4, atol=2e-5)
    lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    new = STEPS - 1
    expected = [48 + new, 42 + new, 42 + new, 39 + new]
    assert lengths == [
        n if size is None else min(n, size - 1) for n, size in zip(expected, windows(model), strict=True)
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@torch.no_grad()
def test_chunks_after_the_prompt_are_not_reduced(family: str) -> None:
    """A second turn of several tokens sees what the first one left, and all of itself."""
    model = build(family)
    stack = read_anatomy(model).stack
    small = reduced(model)
    ids, valid = example(model, 2, PROMPT + STEPS)["input_ids"], torch.ones(2, PROMPT + STEPS, dtype=torch.bool)
    indices = watch(small, stack)
    first = small(ids[:, :PROMPT], use_cache=True)
    second = small(ids[:, PROMPT:], past_key_values=first.past_key_values, use_cache=True)
    assert second.logits.shape[1] == STEPS
    expected = truth(model, stack, ids, valid, indices, compacted=False)
    torch.testing.assert_close(second.logits[:, -1], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("words", ["mlp attn+mlp attn+mlp mlp", "attn+mlp removed attn mlp", "mlp mlp mlp mlp"])
@torch.no_grad()
def test_fewer_tokens_and_fewer_parts_decode_together(words: str) -> None:
    """A model whose cache has neither all layers nor all tokens: with a cache as without one."""
    model = build("llama")
    architecture = Architecture.from_words(words).replace_tokens(Schedule.parse(TEXT, Reduction()))
    small = prune(model, architecture)
    ids = example(model, 2, PROMPT + 1)["input_ids"]
    cache = small(ids[:, :PROMPT], use_cache=True).past_key_values
    actual = small(ids[:, PROMPT:], past_key_values=cache, use_cache=True).logits[:, -1]
    silent = build("llama")
    for index, layer in enumerate(silent.model.layers):
        if architecture.drops(Unit(index, Kind.ATTENTION)):
            layer.self_attn.o_proj.weight.zero_()
        if architecture.drops(Unit(index, Kind.MLP)):
            layer.mlp.down_proj.weight.zero_()
    whole = reduced(silent)
    indices = watch(whole, "model.layers")
    whole(ids[:, :PROMPT])
    expected = truth(silent, "model.layers", ids, torch.ones_like(ids).bool(), indices, compacted=False)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_beams_keep_what_their_rows_left() -> None:
    """Beam search orders the rows of the cache anew; without a cache there is nothing to order."""
    model = build("llama")
    small = reduced(model, scorer=Scorer.RANDOM, positions=Positions.COMPACTED)
    ids, mask = example(model, 2, PROMPT)["input_ids"], torch.ones(2, PROMPT, dtype=torch.long)
    mask[1, :7] = 0
    settings = {"max_new_tokens": STEPS, "do_sample": False, "num_beams": 3, "eos_token_id": None, "pad_token_id": 0}
    found = small.generate(input_ids=ids, attention_mask=mask, **settings)
    alone = [
        small.generate(input_ids=ids[row : row + 1], attention_mask=mask[row : row + 1], **settings) for row in (0, 1)
    ]
    assert torch.equal(found, torch.cat(alone))
