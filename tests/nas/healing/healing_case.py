"""Tiny pruned models, items to heal them on, and result folders as a search leaves them."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from byte_tokenizer import SIZE, byte_tokenizer
from families import build, example, filled
from sentence_folders import bert, sentences, write_folder
from small_search import make
from test_questions import line, processor, write

from nas.data.dataset import Dataset, Split
from nas.healing.items import Batch
from nas.healing.loss import HealingLoss, list_watched_layers
from nas.healing.outputs import find_output_loss
from nas.healing.recipe import Recipe
from nas.healing.student import Student, TrainingData
from nas.healing.teacher import Teacher
from nas.healing.train import Training
from nas.parent.parent import compute_weights_digest
from nas.quality.evaluator import Evaluator, choose_evaluator
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint import load_parent, save
from pruning.surgery.prune import prune
from search_spaces import Architecture

WORDS = "attn+mlp removed attn attn+mlp"  # of four blocks: one is removed, one has lost its MLP
ARCHITECTURE = Architecture.from_words(WORDS)


def dataset(family: str, items: int) -> Dataset:
    """Random items of a family in `families`; a third of an encoder's are padded."""
    splits = {}
    for seed, name in enumerate(("calibration", "validation", "test")):
        given = example(build(family), batch=items, tokens=16, seed=seed)
        if family in ("bert", "roberta", "distilbert"):
            given["attention_mask"] = torch.ones_like(given["input_ids"])
            given["attention_mask"][::3, 11:] = 0
        splits[name] = Split(name, given)
    return Dataset(**splits)


class Case:
    """A parent, its candidate, and what judges it."""

    def __init__(self, family: str, items: int = 12, architecture: Architecture = ARCHITECTURE) -> None:
        self.parent, self.data, self.architecture = build(family), dataset(family, items), architecture
        self.anatomy = read_anatomy(self.parent)
        self.evaluator: Evaluator = choose_evaluator(self.parent, self.data)
        self.model = prune(self.parent, architecture, anatomy=self.anatomy)

    @property
    def student(self) -> Student:
        training_data = TrainingData(self.data.calibration, 1, {})
        return Student(self.parent, self.anatomy, self.model, self.architecture, self.evaluator, training_data)

    def loss(self, hidden_weight: float = 1.0) -> HealingLoss:
        """Of the candidate, in fp32."""
        layers = frozenset(list_watched_layers(self.anatomy, self.architecture))
        outputs = find_output_loss(self.evaluator, self.parent)
        teacher = Teacher(self.parent, self.anatomy, outputs, layers, nullcontext)
        return HealingLoss(teacher, self.model, self.anatomy, self.architecture, hidden_weight, nullcontext)

    def batch(self, items: int = 4) -> Batch:
        """The first calibration items."""
        return Batch(torch.arange(items), next(self.data.calibration.iterate_batches(items)))

    def training(self, recipe: Recipe, file: Path, **other: Any) -> Training:
        """How the candidate is trained; `other` replaces what a training is made of."""
        return replace(self.student.build_training(recipe, file, {"who": 1}), **other)


class Stops:
    """A progress that ends the process, as Ctrl-C does, when a stage has advanced so many times."""

    def __init__(self, after: int, title: str = "healing") -> None:
        self.after, self.title, self.told = after, title, list[str]()

    def show_message(self, text: str) -> None:
        self.told.append(text)

    @contextmanager
    def open_stage(self, title: str, total: float | None = None):
        self.told.append(title)
        yield self if title == self.title else Stops(10**9)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt


def result_of(folder: Path, model: Path, data: Path, words: str = WORDS, **winner: Any) -> Path:
    """A result folder with what healing reads of it: no search has to run for that."""
    parent = load_parent(model)
    request = SearchRequest("host", Budget.parse("0.8x"), folder, model=str(model), data=data)
    request.save()
    architecture = Architecture.from_words(words)
    save(prune(parent, architecture), folder / "winner", companions=model)
    (folder / "winner" / "architecture.json").write_text(json.dumps(architecture.to_json()))
    document = {
        "schema_version": 1,
        "model": {"hash": compute_weights_digest(parent), "id": "a-model"},
        "target": {"name": "host"},
        "budget_ms": 8.0,
        "mlflow": {"run_id": "of the search"},
        "winner": {"as_dropped": None, **winner},
    }
    (folder / "result.json").write_text(json.dumps(document))
    return folder


def decoder(folder: Path, words: str = WORDS) -> Path:
    """A result of a language model."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    config = hf.LlamaConfig(
        **sizes, num_key_value_heads=2, vocab_size=SIZE, max_position_embeddings=64, bos_token_id=1, eos_token_id=2
    )
    filled(lambda: hf.LlamaForCausalLM(config)).save_pretrained(folder / "model")
    byte_tokenizer(folder / "model")
    write_texts(folder / "data", joined=12)
    return result_of(folder / "result", folder / "model", folder / "data", words)


def encoder(folder: Path) -> Path:
    """A result of an embedding model: Sentence Transformers' files, no head."""
    write_folder(folder / "model", {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}, model=bert())
    write_texts(folder / "data", joined=1)
    return result_of(folder / "result", folder / "model", folder / "data")


def classifier(folder: Path) -> Path:
    """A result of an image classifier."""
    made = make(folder)
    return result_of(folder / "result", made / "model", made / "data")


def vision_language(folder: Path) -> Path:
    """A result of a model that answers questions about images, with answers of one and of two words."""
    build("llava").save_pretrained(folder / "model")
    processor().save_pretrained(folder / "model")
    (folder / "data").mkdir()
    lines = [line(n, "how many red dots ?" if n % 2 else "how many ?", "12 5" if n % 2 else "7") for n in range(24)]
    write(folder / "data", lines, images=24)
    return result_of(folder / "result", folder / "model", folder / "data")


def write_texts(folder: Path, joined: int) -> None:
    """Three files of random words, `joined` sentences a text."""
    folder.mkdir()
    for seed, name in enumerate(("calibration", "validation", "test")):
        words = sentences(12 * joined, seed=seed)
        texts = [" ".join(words[at : at + joined]) for at in range(0, len(words), joined)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
