"""A tiny decoder that has something to read."""

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nas.parent.parent import ParentModel, load_parent_model
from nas.parent.reference_models import find_reference
from pruning.checkpoint import save


def make_reading_parent(home: Path, blocks: int) -> ParentModel:
    """A decoder of 64 positions in `home`/parent, with the words of python-lm, and random texts in `home`/texts.txt."""
    sizes = {"hidden_size": 32, "num_hidden_layers": blocks, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=4096, max_position_embeddings=64, initializer_range=0.2))
    save(model, home / "parent")
    reference = find_reference("python-lm")
    assert reference is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference.folder / name, home / "parent" / name)
    letters = np.array(list("abcdefghij    "))
    rng = np.random.default_rng(0)
    (home / "texts.txt").write_text("\n\n".join("".join(rng.choice(letters, 400)) for _ in range(30)))
    return load_parent_model(str(home / "parent"), home / "texts.txt")
