"""`nas route` on winners of each kind of model, against answers that are compared one by one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import nas
from families import build
from small_search import make

from nas.data.dataset import Dataset, Split
from nas.parent.parent import load_parent_model
from nas.quality.embedding import EmbeddingEvaluator
from nas.quality.language import LanguageEvaluator
from nas.quality.prompt import PromptEvaluator
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.routing import compare_answers
from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces import Architecture
from search_spaces.errors import UsageError

WINNER = Architecture.from_words("attn+mlp mlp attn+mlp removed")


def texts(*shape: int) -> Dataset:
    ids = torch.randint(3, 96, (3, *shape), generator=torch.Generator().manual_seed(0))
    names = ("calibration", "validation", "test")
    return Dataset(*(Split(name, {"input_ids": each}) for name, each in zip(names, ids, strict=True)))


@torch.no_grad()
def test_every_token_of_a_text_is_a_query() -> None:
    parent, data = build("llama"), texts(5, 7)
    model = prune(parent, WINNER)
    answers = compare_answers(model, parent, LanguageEvaluator(parent, data), "test")
    expected = []
    for row in data.test.inputs["input_ids"]:
        for end in range(1, 8):
            own, its = (each(input_ids=row[None, :end]).logits[0, -1] for each in (model, parent))
            expected.append((own.softmax(-1).max().item(), bool(own.argmax() == its.argmax())))
    assert answers.confidence.tolist() == pytest.approx([confidence for confidence, _ in expected], abs=1e-5)
    assert answers.agrees.tolist() == [agrees for _, agrees in expected]
    assert 0 < sum(answers.agrees.tolist()) < len(answers)
    last = compare_answers(model, parent, PromptEvaluator(parent, data), "test")
    assert last.confidence.tolist() == pytest.approx(answers.confidence[6::7].tolist(), abs=1e-5)


def test_a_model_that_embeds_is_refused_in_one_line() -> None:
    parent, data = build("roberta"), texts(5, 7)
    masked = Dataset(
        *(
            Split(split.name, split.inputs | {"attention_mask": torch.ones(5, 7, dtype=torch.long)})
            for split in (data.calibration, data.validation, data.test)
        )
    )
    with pytest.raises(UsageError, match="give the search of a classifier or of a language model") as refused:
        compare_answers(parent, parent, EmbeddingEvaluator(parent, masked), "test")
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of a search of an image classifier, as far as it is read."""
    home = make(tmp_path_factory.mktemp("route"))
    folder = home / "out"
    SearchRequest("jetson-orin", Budget.parse("0.6x"), folder, model=str(home / "model"), data=home / "data").save()
    save(prune(load(home / "model", torch.float32), WINNER), folder / "winner")
    figures = {
        "winner": {"predicted_ms": 6.0, "measured_ms": None},
        "parent": {"predicted_ms": 10.0, "measured_ms": None},
    }
    (folder / "result.json").write_text(json.dumps({"schema_version": 1, **figures}))
    return folder


@torch.no_grad()
def test_a_classifier_s_thresholds_are_written_beside_the_winner(out: Path) -> None:
    done = nas("route", str(out), "--agreement", "0.5,0.8", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert json.loads((out / "winner" / "routing.json").read_text()) == document
    parent = load_parent_model(str(out.parent / "model"), out.parent / "data")
    winner, pixels = load(out / "winner", torch.float32), parent.dataset.test.inputs["pixel_values"]
    probabilities = winner(pixel_values=pixels).logits.softmax(-1).numpy()
    agrees = probabilities.argmax(-1) == parent.model(pixel_values=pixels).logits.argmax(-1).numpy()
    assert document["queries"] == len(pixels)
    for each in (*document["curve"], *document["thresholds"]):
        if each["threshold"] is not None:
            kept = probabilities.max(-1) >= np.float32(each["threshold"]) - 1e-6
            assert each["share"] == pytest.approx(kept.mean())
            assert each["agreement"] == pytest.approx(agrees[kept].mean() if kept.any() else 1)
            assert each["saved_ms"] == pytest.approx(10 * kept.mean() - 6)
    assert document["curve"][-1]["overall_agreement"] == pytest.approx(agrees.mean())
    assert document["measured"] is False


def test_the_table_is_small_and_says_how_the_milliseconds_are_known(out: Path) -> None:
    done = nas("route", str(out), "--agreement", "0.01")
    assert done.returncode == 0, done.stderr
    head, line, foot = done.stdout.splitlines()
    assert head.split() == ["asked", "confidence", "winner", "keeps", "agrees", "overall", "saves"]
    assert line.split()[0] == "1.00%"
    assert foot.endswith("winner 6.00 ms, parent 10.00 ms (predicted)")
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("text", ["", "ninety", "0", "1.5", "nan"])
def test_an_agreement_that_is_no_share_is_refused(text: str, out: Path) -> None:
    done = nas("route", str(out), "--agreement", text)
    assert done.returncode == 2
    assert "shares above 0 and at most 1" in done.stderr.strip().splitlines()[-1]
