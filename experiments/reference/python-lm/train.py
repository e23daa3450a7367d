"""Train `python-lm`: a 12-layer Llama-type decoder on Python source, on a CPU or a GPU.

    python train.py --out /tmp/python-lm          # the whole recipe; interrupted, it goes on where it stopped
    python train.py --out /tmp/gpt2 --family gpt2 # the smaller decoders of the benchmarks: gpt2, gpt_neox, qwen3, olmo2

The recipe is fixed in steps, not in minutes: the same corpus, seed and steps give the card's figure
within its tolerance on any machine. Weights are saved in bfloat16, safetensors only.
"""

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import corpus
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

END = "<|end|>"
END_TOKEN = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}  # it begins, ends and pads


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result."""

    family: str = "llama"
    text: str = "source"  # of the corpus, or its "docstrings"
    vocabulary: int = 4096
    hidden: int = 192
    layers: int = 12
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    context: int = 2048
    short_context: int = 512  # cheaper; most patterns of code are local
    tokens_per_step: int = 8192
    steps: int = 1600
    long_steps: int = 160  # the last steps run at the full context
    warmup: int = 60
    cooldown: float = 0.35  # share of the steps over which the learning rate falls to zero
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0


def train_tokenizer(texts: list[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a sample of the training text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=recipe.vocabulary, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts[::6], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All texts as one stream of int16 tokens, each text followed by the end token."""
    stream: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        stream.extend(encoding.ids)
        stream.append(tokenizer.eos_token_id)
    return torch.tensor(stream, dtype=torch.int16)


def build(recipe: Recipe) -> PreTrainedModel:
    """The untrained model, fp32."""
    torch.manual_seed(recipe.seed)
    return AutoModelForCausalLM.from_config(CONFIGS[recipe.family](recipe))


def build_llama_config(recipe: Recipe) -> PreTrainedConfig:
    """Rotary positions, RMS norms, gated MLP, grouped queries."""
    return LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        **END_TOKEN,
    )


def build_gpt2_config(recipe: Recipe) -> PreTrainedConfig:
    """Learned positions, layer norms, plain MLP; no dropout, as no text is seen twice."""
    return GPT2Config(
        vocab_size=recipe.vocabulary,
        n_embd=recipe.hidden,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_inner=recipe.intermediate,
        n_positions=recipe.context,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **END_TOKEN,
    )


def build_gpt_neox_config(recipe: Recipe) -> PreTrainedConfig:
    """Partly rotary positions, attention and MLP in parallel."""
    return GPTNeoXConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        **END_TOKEN,
    )


def build_qwen3_config(recipe: Recipe) -> PreTrainedConfig:
    """As Llama, with normalised queries and keys, and heads that do not divide the hidden size."""
    return Qwen3Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=HEAD,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        **END_TOKEN,
    )


def build_olmo2_config(recipe: Recipe) -> PreTrainedConfig:
    """Rotary positions, gated MLP; what a part adds to the stream is normalised, not what it reads."""
    return Olmo2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        initializer_range=recipe.hidden**-0.5,  # with the usual 0.02 what parts add would drown the embeddings
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        **END_TOKEN,
    )


CONFIGS = {
    "llama": build_llama_config,
    "gpt2": build_gpt2_config,
    "gpt_neox": build_gpt_neox_config,
    "qwen3": build_qwen3_config,
    "olmo2": build_olmo2_config,
}
HEAD = 32  # size of a head where it is no share of the hidden size
SMALLER = Recipe(hidden=128, heads=4, intermediate=512, steps=800, long_steps=80)  # within 20 minutes on two cores
PROSE = replace(  # within 15 minutes on one
    SMALLER, text="docstrings", context=1024, short_context=256, tokens_per_step=2048, steps=1000, long_steps=100
)
RECIPES = {
    "llama": Recipe(),
    "gpt2": replace(SMALLER, family="gpt2"),
    "gpt_neox": replace(SMALLER, family="gpt_neox"),
    "qwen3": replace(PROSE, family="qwen3", hidden=160, intermediate=480),
    "olmo2": replace(PROSE, family="olmo2", layers=16, kv_heads=4, intermediate=320),
}


def draw_batch(stream: torch.Tensor, step: int, recipe: Recipe) -> torch.Tensor:
    """The (batch, context) tokens of a step; depends on the seed and the step only."""
    context = recipe.context if step >= recipe.steps - recipe.long_steps else recipe.short_context
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    starts = torch.randint(0, len(stream) - context, (recipe.tokens_per_step // context,), generator=generator)
    return torch.stack([stream[start : start + context] for start in starts]).long()


def compute_learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, constant, then linear to zero."""
    down = int(recipe.steps * recipe.cooldown)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup, (recipe.steps - step) / down)


@torch.no_grad()
def measure_perplexity(model: PreTrainedModel, stream: torch.Tensor, recipe: Recipe, windows: int = 64) -> float:
    """exp(mean next-token loss) over evenly spaced windows of the full context."""
    model.eval()
    starts = torch.linspace(0, len(stream) - recipe.context, windows).long()
    losses = []
    for start in starts:
        ids = stream[start : start + recipe.context].long()[None].to(model.device)
        losses.append(model(input_ids=ids, labels=ids).loss.float().item())
    model.train()
    return math.exp(sum(losses) / len(losses))


def build_optimizer(model: PreTrainedModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))


def train(model: PreTrainedModel, stream: torch.Tensor, recipe: Recipe, state: Path) -> None:
    """Run the remaining steps; `state` is rewritten every 100 steps and read when it exists."""
    optimizer = build_optimizer(model, recipe)
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=model.device)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    forward = torch.compile(model) if shutil.which("g++") else model  # 1.5 x faster on a CPU
    began = time.perf_counter()
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = compute_learning_rate(step, recipe)
        ids = draw_batch(stream, step, recipe).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 20 == 0:
            rate = (step + 1 - first) * recipe.tokens_per_step / (time.perf_counter() - began)
            print(f"step {step + 1}/{recipe.steps} loss {loss.item():.3f} {rate:.0f} tokens/s", flush=True)
        if (step + 1) % 100 == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(saved, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and the training state")
    parser.add_argument("--family", choices=RECIPES, default="llama")
    parser.add_argument("--steps", type=int, help="fewer, to try it")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.family]
    if arguments.steps is not None:
        recipe = replace(recipe, steps=arguments.steps, long_steps=arguments.steps // 10)
    arguments.out.mkdir(parents=True, exist_ok=True)
    texts = corpus.load("train", recipe.text)
    tokenizer = train_tokenizer(texts, recipe)
    stream = tokenize(tokenizer, texts)
    model = build(recipe).to("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, {len(stream) / 1e6:.1f} M training tokens", flush=True)
    train(model, stream, recipe, arguments.out / "state.pt")
    figures = {
        s: measure_perplexity(model, tokenize(tokenizer, corpus.load(s, recipe.text)), recipe)
        for s in ("validation", "test")
    }
    model.to(torch.bfloat16).save_pretrained(arguments.out / "model")
    tokenizer.save_pretrained(arguments.out / "model")
    record = {"recipe": asdict(recipe), "perplexity": figures, "training_tokens": recipe.steps * recipe.tokens_per_step}
    (arguments.out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
