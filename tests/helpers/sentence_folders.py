"""Folders of Sentence Transformers written by hand, with a tiny BERT, and what they embed worked out text by text."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from families import filled
from safetensors.torch import save_file
from torch import Tensor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "query", ":", *(f"w{number}" for number in range(90))]
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 64, "pad_token_id": 0}
PROMPT = "query: "
PACKAGE = "sentence_transformers.models"


def bert(kind: Any = hf.BertModel, **more: Any) -> Any:
    """Weights of which biases are small: texts are not all alike."""
    model = filled(lambda: kind(hf.BertConfig(**TEXT, **more)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(0.05)
            elif parameter.ndim > 1:
                parameter.mul_(2.0)
    return model


def write_tokenizer(folder: Path, **more: Any) -> None:
    """One token a word, between [CLS] and [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    raw = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=raw, **named, **more).save_pretrained(folder)


def write_folder(
    folder: Path,
    pooling: dict[str, Any],
    layers: Sequence[tuple[str, dict[str, Any], dict[str, Tensor]]] = (("Normalize", {}, {}),),
    texts: dict[str, Any] | None = None,
    general: dict[str, Any] | None = None,
    model: Any = None,
) -> Path:
    """A folder as the package writes it: `layers` are (class, config, weights)."""
    (model or bert()).save_pretrained(folder)
    write_tokenizer(folder)
    steps = [("Pooling", pooling, {}), *layers]
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}.Transformer"}]
    for at, (name, config, weights) in enumerate(steps, 1):
        path = folder / f"{at}_{name}"
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        if weights:
            save_file(weights, path / "model.safetensors")
        modules.append({"idx": at, "name": str(at), "path": path.name, "type": f"{PACKAGE}.{name}"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": None, **(texts or {})}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(general or {}))
    return folder


@torch.no_grad()
def by_hand(
    model: Any, folder: Path, texts: Sequence[str], pool: Callable[[Tensor], Tensor], length: int = 64
) -> Tensor:
    """(texts, width): every text alone, so without padding; `pool` takes the states (tokens, hidden) of one."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"]
        rows.append(pool(model(input_ids=ids)[0][0].double()))
    return torch.stack(rows)


def sentences(count: int = 9, seed: int = 0) -> list[str]:
    """Texts of one to twelve words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (count,), generator=generator).tolist()
    return [" ".join(f"w{at}" for at in torch.randint(0, 90, (n,), generator=generator).tolist()) for n in lengths]
