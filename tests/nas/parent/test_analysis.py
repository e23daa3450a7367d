"""The analysis of a streamed parent: the same numbers, each block read once, and gone on with where it was killed."""

import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from byte_tokenizer import SIZE, byte_tokenizer
from families import filled, mark_rest_slow
from filelock import FileLock
from transformers import LlamaConfig, LlamaForCausalLM

from nas.figures.kept_patches import spread
from nas.parent import analysis_batches
from nas.parent.analysis import analyse
from nas.parent.parent import load_parent_model
from nas.progress import Silent
from pruning.analysis.token_redundancy import TokenObserver

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is streamed")
DEPTH = 4
_SIZES = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4, "intermediate_size": 48}
_KILLED = """
import os, signal, sys
from pathlib import Path
from nas.figures.kept_patches import spread
from nas.parent.analysis import analyse
from nas.parent.parent import load_parent_model
from nas.progress import Silent
from pruning.analysis.token_redundancy import TokenObserver

parent = load_parent_model(sys.argv[1], Path(sys.argv[2]), stream_when="always")
split = spread(parent.dataset.calibration, 6)
TokenObserver(parent.model, parent.anatomy)
left = int(sys.argv[3])

def count(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

for block in parent.model.get_submodule(parent.anatomy.stack):
    block.register_forward_pre_hook(count)
analyse(parent, Silent(), split)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    where = tmp_path_factory.mktemp("parent")
    filled(
        lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, vocab_size=SIZE, max_position_embeddings=64))
    ).save_pretrained(where / "model")
    byte_tokenizer(where / "model")
    letters = random.Random(0)
    texts = ("".join(letters.choices("abcdefghij    ", k=400)) for _ in range(12))
    (where / "texts.txt").write_text("\n\n".join(texts))
    return where


def load(home, stream):
    parent = load_parent_model(str(home / "model"), home / "texts.txt", stream_when=stream)
    prepare(parent)
    return parent


def prepare(parent):
    """What runs the model before the analysis: reading the data, and finding out whether its attention is known."""
    assert parent.dataset
    TokenObserver(parent.model, parent.anatomy)


@contextmanager
def recording(parent):
    """The blocks in the order in which they run."""
    blocks, order = parent.model.get_submodule(parent.anatomy.stack), []
    handles = [
        block.register_forward_pre_hook(lambda *_, index=index: order.append(index))
        for index, block in enumerate(blocks)
    ]
    yield order
    for handle in handles:
        handle.remove()


def measure(parent):
    return analyse(parent, Silent(), spread(parent.dataset.calibration, 6))


def test_a_streamed_parent_runs_each_block_once_for_all_items_and_gives_the_same(home):
    expected = measure(load(home, "never"))
    assert expected[1] is not None
    parent = load(home, "always")
    with recording(parent) as order:
        assert measure(parent) == expected
    assert order == sorted(order)
    assert set(order) == set(range(DEPTH))
    assert not list((parent.cache / "analysis").glob("st*"))


def test_groups_are_no_larger_than_memory_is_to_hold(home, monkeypatch):
    expected, parent = measure(load(home, "never")), load(home, "always")
    monkeypatch.setattr(analysis_batches, "STATE_BYTES", 3 * 64 * 32 * 4)
    with recording(parent) as order:
        assert measure(parent) == expected
    groups = 1 + sum(later < earlier for earlier, later in pairwise(order))
    assert groups > 1
    assert len(order) % DEPTH == 0


@pytest.mark.parametrize("at", mark_rest_slow([0.3, 0.6, 0.9], [0.6]))
def test_what_was_killed_goes_on_with_the_block_it_was_at(home, at):
    parent = load(home, "always")
    with recording(parent) as order:
        expected = measure(parent)
    batches = len(order) // DEPTH
    calls = int(at * len(order))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [home / "model", home / "texts.txt", str(calls)]
    done = subprocess.run([sys.executable, "-c", _KILLED, *arguments], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    with recording(parent) as order:
        assert measure(parent) == expected
    assert order == [block for block in range(calls // batches, DEPTH) for _ in range(batches)]


def test_two_processes_at_once_do_not_touch_what_the_other_has(home):
    parent = load(home, "always")
    expected = measure(parent)
    with FileLock(parent.cache / "analysis" / ".lock"):
        assert measure(parent) == expected


def test_what_is_damaged_is_begun_anew(home):
    parent = load(home, "always")
    expected = measure(parent)
    Path(parent.cache / "analysis" / "traversal.pt").write_bytes(b"no file of ours")
    assert measure(parent) == expected
