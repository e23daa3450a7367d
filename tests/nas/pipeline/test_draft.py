"""`--goal draft`: the draft that is found is the fastest of all there are, and generates what its parent does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from latency_models.workload import Workload
from nas.certification.run import CertificationRun
from nas.parent.parent import load_parent_model
from nas.parent.reference_models import find_reference
from nas.pipeline.run import run
from nas.progress import Silent
from nas.quality.acceptance import AcceptanceEvaluator
from nas.request.quantities import Budget
from nas.request.search_request import SearchRequest
from nas.search.speculation import Draft
from pruning.checkpoint import load, save
from pruning.surgery.prune import prune
from search_spaces import Kind, Unit
from search_spaces.architecture import drop_from_parent
from search_spaces.errors import UsageError

STEP = Workload.parse("decode:batch=1,past=24")
DEPTH = 4


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder whose last blocks add little, and random words."""
    folder = tmp_path_factory.mktemp("drafted")
    sizes = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=4096, max_position_embeddings=64, initializer_range=0.2))
    with torch.no_grad():
        for number, block in enumerate(model.model.layers):
            for matrix in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
                matrix *= 0.3**number
    model.generation_config.eos_token_id = None
    save(model, folder / "model")
    reference = find_reference("python-lm")
    assert reference is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(reference.folder / name, folder / "model" / name)
    letters, rng = np.array(list("abcdefghij    ")), np.random.default_rng(0)
    (folder / "texts.txt").write_text("\n\n".join("".join(rng.choice(letters, 400)) for _ in range(30)))
    return folder


def ask(home: Path, out: str = "out", **more: Any) -> SearchRequest:
    return SearchRequest(
        "jetson-orin", Budget.parse("0.9x"), home / out, model=str(home / "model"), data=home / "texts.txt",
        workload=STEP, units=(Kind.BLOCK,), trials=12, compensate="off", goal="draft", **more,
    )  # fmt: skip


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Filled with what is delivered: nothing is exported and logged."""
    found: list[Any] = []

    def deliver(delivery: Any) -> Any:
        found.append(delivery)
        save(delivery.winner, delivery.winner_folder)
        return SimpleNamespace(mlflow={})

    predicted = SimpleNamespace(busy="", budget_ms=1.0)
    monkeypatch.setattr(CertificationRun, "compare_here", lambda self, problem, winner: predicted)
    monkeypatch.setattr("nas.pipeline.run.deliver", deliver)
    monkeypatch.setattr("nas.pipeline.run.record", lambda result, delivery, progress: result)
    return found


@torch.no_grad()
def test_the_fastest_draft_of_all_is_found_and_writes_ahead_for_its_parent(home: Path, delivered: list[Any]) -> None:
    run(ask(home), Silent())
    (delivery,) = delivered
    parent = load_parent_model(str(home / "model"), home / "texts.txt")
    evaluator = AcceptanceEvaluator(parent.model, parent.dataset)
    whole = delivery.predict_ms(delivery.outcome.parent.architecture)
    drafts = {}
    for number in range(1, 2**DEPTH):
        units = [Unit(layer, Kind.BLOCK) for layer in range(DEPTH) if number >> layer & 1]
        architecture = drop_from_parent(DEPTH, units)
        if len(units) < DEPTH:
            model = prune(parent.model, architecture, anatomy=parent.anatomy)
            drafts[architecture] = Draft.of(evaluator.evaluate(model).value, delivery.predict_ms(architecture) / whole)
    fastest = max(drafts.values(), key=lambda draft: draft.speedup)
    assert fastest.speedup > 1.1
    assert drafts[delivery.outcome.winner.architecture] == fastest

    draft, folder = load(home / "out" / "winner", torch.float32), home / "out" / "winner"
    document = json.loads((folder / "draft.json").read_text())
    assert document["acceptance"] == pytest.approx(evaluator.evaluate(draft, "test").value)
    assert draft.generation_config.num_assistant_tokens == max(1, document["tokens"])
    ids = parent.dataset.test.inputs["input_ids"][:1, :12]
    settings = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    alone = parent.model.generate(ids, **settings)
    assert torch.equal(parent.model.generate(ids, assistant_model=draft, **settings), alone)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"workload": Workload.parse("forward:batch=1,seq=24")}, "take --workload decode:batch=1,past=256"),
        ({"heal_s": 60.0}, "--goal draft and --heal"),
        ({"pareto": True}, "--goal draft and --pareto"),
        ({"model": "digits-vit", "data": None, "workload": None}, "writes no text token by token; give a decoder"),
    ],
)
def test_what_makes_no_draft_is_refused(more: dict[str, Any], says: str, home: Path) -> None:
    with pytest.raises(UsageError, match=says):
        run(replace(ask(home, "refused"), **more), Silent())
