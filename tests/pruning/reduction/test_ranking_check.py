"""What ranks tokens is the attention that the model itself tells, in every family; where it is not, it is refused."""

import functools
import itertools
from typing import Any

import pytest
import torch
import transformers as hf
from families import DECODERS, ENCODERS, REPRESENTATIVES, VISION, build, example, filled, mark_rest_slow
from torch import Tensor

from pruning.analysis.token_redundancy import measure_token_redundancy
from pruning.anatomy.anatomy import read_anatomy
from pruning.reduction import hooks
from pruning.reduction import ranking_check as agreement
from pruning.surgery.prune import prune
from search_spaces import Architecture, Reducer, Reduction, Schedule, Scorer
from search_spaces.errors import UnreadableModel

TOKENS = 44  # 4 + 32 stay
_SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
          "intermediate_size": 48, "vocab_size": 96, "max_position_embeddings": 64, "bos_token_id": 1,
          "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
_OLD = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_HYBRID = ["sliding_attention", "full_attention"] * 2
AGREE = {
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(**_OLD, hidden_size=32, num_layers=4, num_heads=4, max_position_embeddings=64,
                        attention_types=[[["global", "local"], 2]], window_size=64, intermediate_size=48)
    ),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_SIZES, use_qk_norm=True)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**_SIZES, attention_multiplier=0.3)),
    "gemma4": lambda: hf.Gemma4ForCausalLM(
        hf.Gemma4TextConfig(**_SIZES, head_dim=8, num_kv_shared_layers=0, layer_types=_HYBRID, sliding_window=64,
                            hidden_size_per_layer_input=0)
    ),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**_SIZES, no_rope_layers=[1, 0, 1, 0])),
}  # fmt: skip
REFUSED = {
    "gptj": lambda: hf.GPTJForCausalLM(
        hf.GPTJConfig(**_OLD, n_embd=32, n_layer=4, n_head=4, n_positions=64, rotary_dim=4, n_inner=48)
    ),
    "gpt_oss": lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**_SIZES, **_EXPERTS, head_dim=8, sliding_window=64)),
    "cohere2": lambda: hf.Cohere2ForCausalLM(hf.Cohere2Config(**_SIZES, layer_types=_HYBRID, sliding_window=64)),
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(**_OLD, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, alibi=True,
                        multi_query=False, new_decoder_architecture=False)
    ),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**_SIZES, qk_layernorm=True)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_SIZES)),
    "xglm": lambda: hf.XGLMForCausalLM(
        hf.XGLMConfig(**_OLD, d_model=32, num_layers=4, attention_heads=4, ffn_dim=48, max_position_embeddings=64)
    ),
}  # fmt: skip


def model_of(family: str) -> Any:
    if family in AGREE or family in REFUSED:
        return filled((AGREE | REFUSED)[family])
    model = build(family)
    for module in model.modules():  # ranking looks at the whole row, a short window does not
        if hasattr(module, "sliding_window"):
            module.sliding_window = 64
    if hasattr(model.config, "sliding_window"):
        model.config.sliding_window = 64
    return model


def reduced(model: Any, stages: str, **choices: Any) -> Any:
    return prune(model, Architecture(4).replace_tokens(Schedule.parse(stages, Reduction(**choices))))


RANKING = itertools.product([*DECODERS, *AGREE, *ENCODERS, *VISION], [1, 2])
RANKING_FAST = [*itertools.product(["gemma2", *AGREE], [1, 2]), *itertools.product(REPRESENTATIVES, [1])]


@pytest.mark.parametrize(("family", "stage"), mark_rest_slow(RANKING, RANKING_FAST))
@torch.no_grad()
def test_the_row_that_ranks_is_the_attention_that_the_model_tells(
    family: str, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every family once at a block of either kind, where it has two."""
    model = model_of(family)
    decodes, inputs = read_anatomy(model).is_decoder, example(model, 2, TOKENS)
    ranked: list[Tensor] = []

    def heard(*given: Any) -> Tensor:
        ranked.append(rank(*given))
        return ranked[-1]

    rank = hooks.rank
    monkeypatch.setattr(hooks, "rank", heard)
    reduced(model, f"{stage}=0.5", scorer=Scorer.LAST if decodes else Scorer.CLASS)(**inputs)
    model.set_attn_implementation("eager")
    reported = model(**inputs, output_attentions=True).attentions[stage].mean(1)[:, -1 if decodes else 0]
    torch.testing.assert_close(ranked[0], reported, rtol=0, atol=1e-5)
    assert reported.std(-1).min() > 1e-4  # not all alike


@pytest.mark.parametrize("family", REFUSED)
@torch.no_grad()
def test_where_a_model_does_more_with_queries_and_keys_it_is_refused_before_it_ranks(family: str) -> None:
    """By attention; scores that ask nobody are at hand for all of them."""
    model = model_of(family)
    with pytest.raises(UnreadableModel, match=r"rank (its )?tokens by (keys|norm)"):
        reduced(model, "1=0.5,3=0.25")
    ids = torch.randint(3, 96, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    assert reduced(model, "1=0.5", scorer=Scorer.NORM)(input_ids=ids).logits.shape[1] == TOKENS - 4
    with pytest.raises(UnreadableModel):
        measure_token_redundancy(model, [{"input_ids": ids}])


def test_only_the_blocks_that_rank_are_asked_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohere 2 has positions in its sliding blocks alone: those rank, the others do not."""
    model, asked = model_of("cohere2"), []
    reported = agreement._read_attention_weights
    monkeypatch.setattr(agreement, "_read_attention_weights", lambda *given: asked.append(given) or reported(*given))
    for _ in range(2):
        reduced(model, "2=0.5")
    assert len(asked) == 1
    with pytest.raises(UnreadableModel, match=r"Cohere2Attention of block 1 .* \(by 0\.\d\d\): positions, biases"):
        reduced(model, "1=0.5")
    assert len(asked) == 2


def test_merging_compares_keys_and_asks_nobody() -> None:
    model = build("vit")
    model.vit.layers[1].attention.scaling = 3.0
    reduced(model, "1=0.5", scorer=Scorer.KEYS, reducer=Reducer.MERGE)


def test_a_module_that_keeps_its_weights_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("vit")
    cls = type(model.vit.layers[1].attention)
    telling = cls.forward

    @functools.wraps(telling)
    def silent(*given: Any, **more: Any) -> Any:
        return telling(*given, **more)[0], None

    monkeypatch.setattr(cls, "forward", silent)
    with pytest.raises(UnreadableModel, match="ViTAttention does not tell its attention weights"):
        reduced(model, "1=0.5", scorer=Scorer.CLASS)
