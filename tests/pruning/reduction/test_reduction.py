"""A model that drops tokens computes what slicing its sequence by hand between the blocks computes."""

from typing import Any

import pytest
import torch
from families import DECODERS, ENCODERS, VISION, build, example, mark_rest_slow
from torch import Tensor

from pruning.anatomy.anatomy import read_anatomy
from pruning.surgery.prune import prune
from search_spaces import Kind, Positions, Reducer, Reduction, Schedule, Scorer, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import ArchitectureError, BadData
from search_spaces.schedule import Source

STAGES = "1=0.5,3=0.25"
TOKENS = 52  # 4 + 32 stay, 16 may go


def reduced(model: Any, stages: str = STAGES, *dropped: Unit, **choices: Any) -> Any:
    schedule = Schedule.parse(stages, Reduction(**choices))
    return prune(model, drop_from_parent(4, dropped).replace_tokens(schedule))


def rotated(states: Tensor, angles: Tensor) -> Tensor:
    """(tokens, size) turned by angles (tokens, size / 2), halves paired as in Llama."""
    first, second = states.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attention_of_last(block: Any, states: Tensor, positions: Tensor) -> Tensor:
    """What each token of one prompt receives from the last, written for one head at a time."""
    x = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + block.input_layernorm.variance_epsilon)
    x = x * block.input_layernorm.weight
    angles = positions[:, None] * (1.0 / 10000 ** (torch.arange(0, 8, 2) / 8))
    rows = []
    for head in range(4):
        query = block.self_attn.q_proj.weight[8 * head : 8 * head + 8] @ x[-1]
        keys = x @ block.self_attn.k_proj.weight[8 * (head // 2) : 8 * (head // 2) + 8].T
        query = rotated(query[None], angles[-1:])[0]
        rows.append(((rotated(keys, angles) @ query) / 8**0.5).softmax(-1))
    return torch.stack(rows).mean(0)


def llama_by_hand(model: Any, ids: Tensor, compacted: bool, stages: dict[int, float]) -> Tensor:
    """The logits of one prompt (tokens) whose sequence is sliced between the blocks."""
    trunk = model.model
    states, positions = trunk.embed_tokens(ids), torch.arange(len(ids))
    droppable = torch.arange(4, len(ids) - 32)
    indices = torch.arange(len(ids))
    for index, block in enumerate(trunk.layers):
        if index in stages:
            keep = int(stages[index] * (len(ids) - 36))
            score = attention_of_last(block, states, positions)
            may_go = torch.isin(indices, droppable)
            order = sorted(torch.nonzero(may_go).flatten().tolist(), key=lambda token: -float(score[token]))
            chosen = torch.tensor(sorted(order[:keep] + torch.nonzero(~may_go).flatten().tolist()))
            states, indices = states[chosen], indices[chosen]
            positions = torch.arange(len(chosen)) if compacted else positions[chosen]
        rotary = trunk.rotary_emb(states[None], positions[None])
        causal = torch.ones(len(states), len(states), dtype=torch.bool).tril()[None, None]
        states = block(states[None], attention_mask=causal, position_embeddings=rotary)[0]
    return model.lm_head(trunk.norm(states))


@pytest.mark.parametrize("positions", Positions)
@torch.no_grad()
def test_llama_computes_what_slicing_by_hand_does(positions: Positions) -> None:
    model = build("llama")
    ids = example(model, 2, TOKENS)["input_ids"]
    logits = reduced(model, positions=positions)(ids).logits
    compacted = positions is Positions.COMPACTED
    for row, expected in enumerate(ids):
        by_hand = llama_by_hand(model, expected, compacted, {1: 0.5, 3: 0.25})
        torch.testing.assert_close(logits[row], by_hand, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", Positions)
@torch.no_grad()
def test_padding_changes_nothing_for_the_tokens_beside_it(side: str, positions: Positions) -> None:
    """Each row of a padded batch ranks and computes as it does alone, given the same number of tokens to keep."""
    model = build("llama")
    ids = example(model, 2, TOKENS)["input_ids"]
    mask, pad = torch.ones_like(ids), TOKENS - 45
    mask[1, :pad] = 0
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    if side == "right":
        ids, mask, numbers = (torch.stack((t[0], t[1].roll(-pad))) for t in (ids, mask, numbers))
    alone = ids[1][mask[1].bool()]
    # 45 tokens, 9 of which may go; 8 stay of the 16 of the padded row: at a ratio of 8/9 as many stay in both
    shorter = reduced(model, "1=0.5", positions=positions)(input_ids=ids, attention_mask=mask, position_ids=numbers)
    expected = llama_by_hand(model, alone, positions is Positions.COMPACTED, {1: 8.5 / 9})
    last = shorter.logits[1, -1] if side == "left" else shorter.logits[1, 44 - 1]
    torch.testing.assert_close(last, expected[-1], rtol=0, atol=1e-5)


@torch.no_grad()
def vit_by_hand(model: Any, pixels: Tensor, stages: dict[int, int]) -> Tensor:
    """Logits (classes) of one image; `stages` gives how many patches are left."""
    vit = model.vit
    states = vit.embeddings(pixels[None])[0]
    for index, block in enumerate(vit.layers):
        if index in stages:
            x = block.layernorm_before(states)
            attention = block.attention
            query, key = (p(x).view(-1, 4, 8).transpose(0, 1) for p in (attention.q_proj, attention.k_proj))
            weights = (query @ key.mT / 8**0.5).softmax(-1).mean(0)[0, 1:]
            order = sorted(range(len(weights)), key=lambda patch: -float(weights[patch]))
            states = states[[0, *(patch + 1 for patch in sorted(order[: stages[index]]))]]
        output = block(states[None], None)
        states = output[0]
    return model.classifier(vit.layernorm(states)[0])


@torch.no_grad()
def test_vit_computes_what_slicing_by_hand_does() -> None:
    model = build("vit")
    pixels = example(model)["pixel_values"]
    logits = reduced(model, "1=0.6,2=0.34", scorer=Scorer.CLASS)(pixels).logits
    expected = torch.stack([vit_by_hand(model, image, {1: 5, 2: 3}) for image in pixels])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scorer", [Scorer.LAST, Scorer.MEAN, Scorer.KEYS, Scorer.NORM, Scorer.RANDOM])
@pytest.mark.parametrize("family", mark_rest_slow(DECODERS))
@torch.no_grad()
def test_decoders_keep_what_they_must(family: str, scorer: Scorer) -> None:
    """A stage before the first block is a prompt without those tokens: positions kept, nothing else known of them."""
    model = build(family)
    ids = torch.stack([3 + torch.randperm(90, generator=torch.Generator().manual_seed(row))[:TOKENS] for row in (0, 1)])
    small = reduced(model, "0=0.5", scorer=scorer)
    heard: list[Tensor] = []
    anatomy = read_anatomy(model)
    small.get_submodule(anatomy.stack)[0].register_forward_hook(lambda _, args, __: heard.append(args[0]))
    logits = small(ids).logits
    assert logits.shape[:2] == (2, TOKENS - 8)
    whole = model(ids, output_hidden_states=True).hidden_states[0]
    for row, states in enumerate(heard[0]):
        distance = (whole[row][None] - states[:, None]).abs().amax(-1)
        indices = distance.argmin(1)
        assert float(distance.amin(1).max()) < 1e-6
        assert indices.diff().min() > 0
        assert indices[:4].tolist() == [0, 1, 2, 3]
        assert indices[-32:].tolist() == list(range(TOKENS - 32, TOKENS))


@pytest.mark.parametrize("family", [*ENCODERS, *VISION])
@torch.no_grad()
def test_encoders_give_back_the_length(family: str) -> None:
    """Every dropped token has the mean of the survivors, so the mean over all is weighted as the survivors stand."""
    model = build(family)
    inputs = example(model, 2, TOKENS)
    anatomy = read_anatomy(model)
    small = reduced(model, "2=0.5", scorer=Scorer.MEAN)
    seen: dict[str, Any] = {}
    last = small.get_submodule(anatomy.stack)[-1]
    last.register_forward_pre_hook(lambda _, args, kwargs: seen.update(entered=args[0].shape[1]), with_kwargs=True)
    last.register_forward_hook(lambda _, __, out: seen.update(left=out[0] if isinstance(out, tuple) else out))
    assert small(**inputs)[0].shape == model(**inputs)[0].shape
    tokens = seen["left"].shape[1]
    special = {"vit": 1, "dinov2": 1, "clip": 1, "siglip": 0}.get(family, 1)
    kept = special + (tokens - special) // 2
    assert seen["entered"] == kept
    distinct = [len(row.unique(dim=0)) for row in seen["left"]]
    assert distinct == [kept + 1] * 2


@torch.no_grad()
def test_a_stage_moves_to_the_next_block_and_ranks_with_its_own_projections() -> None:
    model = build("llama")
    ids = example(model, 1, TOKENS)["input_ids"]
    moved = reduced(model, "1=0.5", Unit(1, Kind.BLOCK))(ids).logits[0]
    by_hand = build("llama")
    del by_hand.model.layers[1]
    own, others = model.model.layers[1], by_hand.model.layers
    others[1].input_layernorm, kept_norm = own.input_layernorm, others[1].input_layernorm
    states = by_hand.model.embed_tokens(ids[0])
    rotary = by_hand.model.rotary_emb(states[None], torch.arange(TOKENS)[None])
    causal = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None]
    states = others[0](states[None], attention_mask=causal, position_embeddings=rotary)[0]
    score = attention_of_last(own, states, torch.arange(TOKENS))[4:20]
    best = sorted(score.topk(8).indices.tolist())
    chosen = torch.tensor([*range(4), *(4 + token for token in best), *range(20, TOKENS)])
    others[1].input_layernorm = kept_norm
    states = states[chosen]
    causal = torch.ones(len(chosen), len(chosen), dtype=torch.bool).tril()[None, None]
    for block in others[1:]:
        rotary = by_hand.model.rotary_emb(states[None], chosen[None])
        states = block(states[None], attention_mask=causal, position_embeddings=rotary)[0]
    torch.testing.assert_close(moved, by_hand.lm_head(by_hand.model.norm(states)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_of_two_stages_at_one_place_both_act_and_after_the_last_block_none() -> None:
    model = build("llama")
    ids = example(model, 1, TOKENS)["input_ids"]
    both = reduced(model, "1=0.5,2=0.25", Unit(1, Kind.BLOCK))(ids).logits
    silent = build("llama")
    silent.model.layers[1].self_attn.o_proj.weight.zero_()
    silent.model.layers[1].mlp.down_proj.weight.zero_()
    assert both.shape[1] == TOKENS - 12
    torch.testing.assert_close(both, reduced(silent, "1=0.5,2=0.25")(ids).logits)
    gone = reduced(model, "3=0.25", Unit(3, Kind.BLOCK))
    assert gone(ids).logits.shape[1] == TOKENS


@torch.no_grad()
def test_a_dropped_attention_still_ranks() -> None:
    """What dropping the attention does to the model is done after the ranking."""
    model = build("llama")
    ids = example(model, 1, TOKENS)["input_ids"]
    small = reduced(model, "1=0.5", Unit(1, Kind.ATTENTION))
    whole = reduced(model, "1=0.5")
    entered: list[Tensor] = []
    for one in (small, whole):
        one.model.layers[1].register_forward_hook(lambda _, args, __: entered.append(args[0]))
        one(ids)
    torch.testing.assert_close(*entered)


@torch.no_grad()
def test_the_block_before_ranks_its_own_input() -> None:
    """FastV: the attention that just ran; so a stage at b ranks as one at b - 1 would, a block later."""
    model = build("llama")
    ids = example(model, 1, TOKENS)["input_ids"]
    small = reduced(model, "2=0.5", source=Source.PREVIOUS)
    states = model.model(ids, output_hidden_states=True).hidden_states
    score = attention_of_last(model.model.layers[1], states[1][0], torch.arange(TOKENS))[4:20]
    best = torch.tensor(sorted(score.topk(8).indices.tolist())) + 4
    entered: list[Tensor] = []
    small.model.layers[2].register_forward_hook(lambda _, args, __: entered.append(args[0]))
    small(ids)
    torch.testing.assert_close(entered[0][0, 4:12], states[2][0, best], rtol=0, atol=1e-5)


@torch.no_grad()
def test_too_short_to_drop_from() -> None:
    model = build("llama")
    ids = example(model, 2, 37)["input_ids"]
    torch.testing.assert_close(reduced(model)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2_vl"])
@torch.no_grad()
def test_sequences_packed_into_one_row_are_refused_and_told_how_to_be_given(family: str) -> None:
    """The parent keeps them apart by their numbers; here each has a row of its own, and computes as it does alone."""
    model = build(family)
    small = reduced(model, scorer=Scorer.RANDOM)
    apart = torch.randint(10, 96, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(TOKENS).expand(2, -1)
    packed = {"input_ids": apart.reshape(1, -1), "position_ids": numbers.reshape(1, -1), "use_cache": False}
    if family == "qwen2_vl":  # the first of four axes numbers the text
        packed["position_ids"] = packed["position_ids"].expand(4, 1, -1)
    separate = model(**packed).logits.reshape(2, TOKENS, -1)
    torch.testing.assert_close(separate, model(apart).logits, rtol=1e-4, atol=2e-5)
    says = rf"position_ids of row 0 go from {TOKENS - 1} to 0 at token {TOKENS}: .*; give each a row of its own, padded"
    with pytest.raises(BadData, match=says):
        small(**packed)
    with pytest.raises(BadData, match=says):
        small(**{**packed, "use_cache": True})
    together = small(apart, attention_mask=torch.ones_like(apart)).logits
    assert together.shape[1] == (TOKENS if family == "qwen2_vl" else TOKENS - 12)  # no word of the former may go
    for row, alone in enumerate(apart):
        torch.testing.assert_close(together[row], small(alone[None]).logits[0], rtol=1e-4, atol=2e-5)


def test_what_makes_no_sense_is_refused() -> None:
    model = build("llama")
    with pytest.raises(ArchitectureError, match="no place in the order"):
        reduced(model, reducer=Reducer.MERGE)
    with pytest.raises(ArchitectureError, match="no class token"):
        reduced(model, scorer=Scorer.CLASS)
    with pytest.raises(ArchitectureError, match="block 0"):
        reduced(model, "0=0.5", source=Source.PREVIOUS)
    ids = example(model, 2, TOKENS)["input_ids"]
    with pytest.raises(BadData, match="row 1 of attention_mask is all padding"):
        reduced(model)(input_ids=ids, attention_mask=torch.stack((torch.ones(TOKENS), torch.zeros(TOKENS))).long())
    with pytest.raises(BadData, match=r"reads one of \(batch, tokens\)"):
        reduced(model)(input_ids=ids, attention_mask=torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool))
