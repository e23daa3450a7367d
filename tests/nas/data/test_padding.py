"""Tokens that a model cannot read, and texts of unlike lengths: judged as each text alone would be."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from byte_tokenizer import SIZE, byte_tokenizer
from families import build
from test_stretches import words
from tokenizers import Tokenizer, models, pre_tokenizers

from nas.data.dataset import load_dataset
from nas.data.documents import SPLITS
from nas.parent.parent import load_parent_model
from nas.quality import choose_evaluator
from search_spaces.errors import BadData

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**SIZES, "vocab_size": SIZE, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    path = tmp_path / "uneven.jsonl"
    rows = [json.dumps({"text": " ".join(words(2 + at % 9, at)), "project": f"p{at % 9}"}) for at in range(36)]
    path.write_text("\n".join(rows))
    return path


def saved(folder: Path, model: hf.PreTrainedModel, **tokenizer: str) -> str:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.2)
    model.save_pretrained(folder)
    byte_tokenizer(folder, **tokenizer)
    return str(folder)


MODELS = {
    "llama": lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT, pad_token_id=None, num_labels=4)),
    "gpt2": lambda: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=SIZE, n_positions=128, num_labels=3)
    ),
    "negative": lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT, pad_token_id=-1, num_labels=4)),
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT, pad_token_id=None, num_labels=3)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TEXT, pad_token_id=1, num_labels=3)),
}
BEYOND = {"pad_token": "[PAD]", "eos_token": "</s>"}
NONE = {"unk_token": "</s>"}
USUAL = {"pad_token": "<pad>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [
        ("llama", NONE), ("llama", USUAL), ("llama", BEYOND), ("gpt2", USUAL), ("gpt2", NONE), ("negative", USUAL),
        ("bert", NONE), ("bert", BEYOND), ("roberta", USUAL), ("roberta", BEYOND),
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_classifier_is_judged_on_every_text_as_it_is_alone(
    family: str, tokenizer: dict[str, str], tmp_path: Path, uneven: Path
) -> None:
    source = saved(tmp_path / "model", MODELS[family](), **tokenizer)
    parent = load_parent_model(source, uneven)
    split = parent.dataset.test
    together = torch.cat([parent.model(**batch).logits for batch in split.iterate_batches(8)])
    plain = type(parent.model).from_pretrained(source).eval()  # as the library has it, a text at a time
    rows = [ids[mask.bool()] for ids, mask in zip(*split.inputs.values(), strict=True)]
    alone = torch.cat([plain(input_ids=row[None]).logits for row in rows])
    assert len({len(row) for row in rows}) > 3
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()
    assert choose_evaluator(parent.model, parent.dataset).evaluate(parent.model, "test").loss == pytest.approx(0.0)
    kept = {row.tolist().__str__() for row in rows}
    texts = [json.loads(line)["text"] for line in uneven.read_text().split("\n")]
    assert kept <= {str(parent.tokenizer(text)["input_ids"]) for text in texts}


def test_an_end_token_beyond_the_vocabulary_is_left_out(tmp_path: Path, uneven: Path) -> None:
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, pad_token_id=0))
    with_end = load_dataset(model.eval(), byte_tokenizer(), uneven)
    beyond = load_dataset(model, byte_tokenizer(eos_token="<|end|>"), uneven)
    for name in SPLITS:
        stream = with_end.get_split(name).inputs["input_ids"].flatten()
        without = beyond.get_split(name).inputs["input_ids"].flatten()
        assert without.max() < SIZE
        kept = stream[stream != 2]
        assert torch.equal(without[: len(kept)], kept[: len(without)])


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_text_with_a_token_beyond_the_vocabulary_is_named(family: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [f"{words(1, at)[0]} <|turn|> {' '.join(words(30, at))}" for at in range(12)]
    path.write_text("\n".join(json.dumps({"text": line, "project": f"p{at}"}) for at, line in enumerate(lines)))
    model = build(family)
    model.resize_token_embeddings(SIZE)
    with pytest.raises(BadData, match=r"'<\|turn\|>' as id 259, .* 259 tokens \(ids 0 to 258\); resize") as caught:
        load_dataset(model, byte_tokenizer(extra=("<|turn|>",)), path)
    assert "\n" not in str(caught.value)
    model.resize_token_embeddings(SIZE + 1)
    assert len(load_dataset(model, byte_tokenizer(extra=("<|turn|>",)), path).test)


def test_texts_without_tokens_are_left_out(tmp_path: Path) -> None:
    vocabulary = {letter: at for at, letter in enumerate(["<pad>", *"abcdefghijklmnop"])}
    raw = Tokenizer(models.BPE(vocabulary, merges=[]))  # what it does not know it leaves out
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>")
    known = [" ".join(words(6, at)) for at in range(30)]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*known, "UNKNOWN", "ALSO UNKNOWN", "?!"]))
    model = build("bert")
    dataset = load_dataset(model, tokenizer, path)
    masks = [dataset.get_split(name).inputs["attention_mask"] for name in SPLITS]
    assert all(bool(mask.any(1).all()) for mask in masks)
    assert sum(map(len, masks)) == 30
    path.write_text("\n".join(json.dumps({"text": text}) for text in ["A", "B", "C", "D"]))
    with pytest.raises(BadData, match="makes no tokens of the"):
        load_dataset(model, tokenizer, path)


def test_signs_that_stop_a_tokenizer_are_one_line(tmp_path: Path) -> None:
    raw = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>")
    (tmp_path / "a.txt").write_text("a b\n\nc d\n\ne f")
    with pytest.raises(BadData, match=r"cannot split the data .*UNK") as caught:
        load_dataset(build("bert"), tokenizer, tmp_path / "a.txt")
    assert "\n" not in str(caught.value)
