"""`nas evaluate` judges a saved decoder with fewer tokens as the search judged the one in memory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reading_parent import make_reading_parent
from test_certificate import certificate
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)
from typer.testing import CliRunner

from latency_models.workload import Workload
from nas.cli.app import app
from nas.quality.prompt import PromptEvaluator, build_prompts
from pruning.checkpoint import save
from pruning.surgery.prune import prune
from search_spaces import Kind, Positions, Reduction, Schedule, Scorer, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import ModelError, UsageError

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PROMPT = Workload.parse("prefill:batch=1,seq=48")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny decoder with random words to read, and a winner's folder of it that loses parts and tokens."""
    home = tmp_path_factory.mktemp("models")
    parent = make_reading_parent(home, blocks=4)
    reduction = Reduction(Scorer.RANDOM, positions=Positions.COMPACTED)
    architecture = drop_from_parent(4, {Unit(2, Kind.MLP)}).replace_tokens(Schedule.parse("1=0.5", reduction))
    winner = prune(parent.model, architecture, anatomy=parent.anatomy)
    save(winner, home / "winner", companions=home / "parent")
    replace(certificate(home / "winner"), workload=PROMPT).save(home / "winner" / "certificate.json")
    return SimpleNamespace(home=home, parent=parent, winner=winner)


def evaluate(saved: SimpleNamespace, folder: Path):
    data = ("--parent", str(saved.home / "parent"), "--data", str(saved.home / "texts.txt"))
    return CliRunner().invoke(app, ["evaluate", str(folder), *data, "--split", "validation", "--json"])


def test_a_saved_decoder_with_fewer_tokens_is_judged_as_the_one_in_memory(saved: SimpleNamespace) -> None:
    """On prompts as long as the workload that it was certified with, which loses 6 of 12 tokens."""
    done = evaluate(saved, saved.home / "winner")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    at = {
        length: PromptEvaluator(saved.parent.model, build_prompts(saved.parent.read_dataset(length))).evaluate(
            saved.winner
        )
        for length in (PROMPT.sequence, 40)
    }
    found, expected = document["candidate"], at[PROMPT.sequence]
    assert (found["metric"], found["items"]) == ("next_token_kl", expected.items)
    assert found["value"] == pytest.approx(expected.value, abs=1e-6)
    assert found["value"] > 1e-3
    assert found["value"] != pytest.approx(at[40].value, rel=1e-3)
    assert document["parent"]["value"] == pytest.approx(0, abs=1e-6)


def test_without_its_certificate_nobody_knows_how_long_prompts_are(saved: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(saved.home / "winner", tmp_path / "winner")
    (tmp_path / "winner" / "certificate.json").unlink()
    done = evaluate(saved, tmp_path / "winner")
    assert isinstance(done.exception, UsageError)
    assert "certificate.json" in str(done.exception)


def test_a_candidate_that_gives_no_numbers_is_refused(saved: SimpleNamespace, tmp_path: Path) -> None:
    """JSON has no NaN, and a table of it tells nothing."""
    broken = LlamaForCausalLM(LlamaConfig(**_SIZES, vocab_size=4096))
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    broken.save_pretrained(tmp_path / "broken")
    done = evaluate(saved, tmp_path / "broken")
    assert isinstance(done.exception, ModelError), done.exception
    assert "no numbers (NaN)" in str(done.exception)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: ViTForImageClassification(ViTConfig(**_SIZES, image_size=12, patch_size=4)), "takes pixel_values"),
        (lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, vocab_size=96)), "has 96 tokens in its vocabulary"),
        (lambda: BertModel(BertConfig(**_SIZES, vocab_size=4096)), "gives no logits"),
        (lambda: BertForMaskedLM(BertConfig(**_SIZES, vocab_size=4096, max_position_embeddings=16)), "does not read"),
        (lambda: BertForSequenceClassification(BertConfig(**_SIZES, vocab_size=4096)), "gives (1, 2) for an item"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line(saved: SimpleNamespace, tmp_path: Path, other, says) -> None:
    """Not compared by what happens to fit, and not ended by what its layers say to inputs that they do not take."""
    save(other(), tmp_path / "other")
    done = evaluate(saved, tmp_path / "other")
    assert isinstance(done.exception, ModelError), done.exception
    message = str(done.exception)
    assert says in message
    assert "--parent" in message
    assert "\n" not in message
