"""What commands take of memory and time on models of real sizes, whose weights are random.

    python experiments/benchmarks/large.py make --shape llama-3.2-1b --out /tmp/llama
    python experiments/benchmarks/large.py run --model /tmp/llama -- analyze --stream never
    python experiments/benchmarks/large.py derive --model /tmp/llama --file deploy/model.onnx [--in-memory]

`make` writes a checkpoint in bf16 shards, of a published config's shape, tensor by tensor: no more than a shard is in
memory. Blocks are scaled unlike, so that their redundancy differs. `run` starts a command of nas in a process of its
own and prints its peak of resident memory, without and with the pages of files that are mapped, and its seconds.
`derive` writes the file of a pruned variant by editing an exported one, weights in its file or all in memory.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from nas.export.graph_editing import ParentGraph
from pruning.anatomy.anatomy import read_anatomy
from pruning.checkpoint.load_save import load
from search_spaces import Architecture, Kind, Unit

DATA = Path(__file__).parents[1] / "reference" / "python-lm" / "data"
SHARD = 1_000_000_000  # bytes
_ROPE = {"rope_type": "default", "rope_theta": 500_000.0}
_COMMON = {"bos_token_id": 1, "eos_token_id": 2, "rope_parameters": _ROPE, "max_position_embeddings": 32_768}
SHAPES = {
    "llama-3.2-1b": {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "qwen3-1.7b": {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "head_dim": 128,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288,
        "head_dim": 128, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "llama-3.1-70b": {
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 8192, "intermediate_size": 28_672,
        "head_dim": 128, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
_STATUS = re.compile(r"^(VmRSS|RssAnon|RssFile|RssShmem):\s+(\d+)", re.MULTILINE)


@dataclass
class Peak:
    """The most resident memory of a process so far, in MiB: all of it, and what is not mapped from a file."""

    whole: int = 0
    anonymous: int = 0

    def look(self, process: int) -> None:
        try:
            text = Path(f"/proc/{process}/status").read_text()
        except OSError:  # it has ended
            return
        now = {name: int(kib) >> 10 for name, kib in _STATUS.findall(text)}
        self.whole = max(self.whole, now.get("VmRSS", 0))
        self.anonymous = max(self.anonymous, now.get("RssAnon", 0))


@dataclass
class Writer:
    """Writes tensors into shards, with their index."""

    folder: Path
    held: dict[str, torch.Tensor] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self.held[name] = tensor
        self.bytes += tensor.nbytes
        if sum(each.nbytes for each in self.held.values()) >= SHARD:
            self.flush()

    def flush(self) -> None:
        if self.held:
            file = f"model-{len(set(self.places.values())) + 1:05d}.safetensors"
            save_file(self.held, self.folder / file, {"format": "pt"})
            self.places |= dict.fromkeys(self.held, file)
            self.held = {}

    def close(self) -> None:
        self.flush()
        index = {"metadata": {"total_size": self.bytes}, "weight_map": self.places}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make(shape: str, layers: int | None, folder: Path) -> None:
    """Write a checkpoint of a shape, of fewer layers where a number is given."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = SHAPES[shape] | ({"num_hidden_layers": layers} if layers else {})
    config = AutoConfig.for_model(**settings, **_COMMON, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    save_byte_tokenizer(folder)
    writer = Writer(folder)
    for name, tensor in draw(model, config):
        writer.put(name, tensor)
    writer.close()
    print(f"{folder}: {writer.bytes / 1e9:.2f} GB in {len(set(writer.places.values()))} shards")


def draw(model, config) -> Iterator[tuple[str, torch.Tensor]]:  # noqa: ANN001
    generator = torch.Generator().manual_seed(0)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    for name, like in model.state_dict().items():
        if name in tied:
            continue
        if like.ndim == 1:
            yield name, torch.ones(like.shape, dtype=torch.bfloat16)
            continue
        block = re.search(r"layers\.(\d+)\.", name)
        scale = 0.02 * (0.25 + (int(block[1]) * 7 % 5) / 4 if block else 1.0)
        yield name, torch.empty(like.shape, dtype=torch.bfloat16).normal_(0, scale, generator=generator)


def save_byte_tokenizer(folder: Path) -> None:
    special = ("<pad>", "<s>", "</s>")
    vocabulary = {token: at for at, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )


def run(model: Path, arguments: list[str]) -> None:
    """Run a command of nas on a model, and print what it took."""
    reads_data = arguments[0] != "export" and "--data" not in arguments
    data = ["--data", str(DATA)] if reads_data else []
    given = [arguments[0], "--model", str(model), *data, *arguments[1:]]
    began, peak = time.monotonic(), Peak()
    process = subprocess.Popen([sys.executable, "-c", "from nas.cli import main; main()", *given])
    while process.poll() is None:
        peak.look(process.pid)
        time.sleep(0.05)
    size = sum(file.stat().st_size for file in model.glob("*.safetensors")) >> 20
    result = {
        "command": " ".join(arguments), "exit": process.returncode, "seconds": round(time.monotonic() - began, 1),
        "peak_mib": peak.whole, "anonymous_mib": peak.anonymous, "checkpoint_mib": size,
        "ratio": round(peak.whole / size, 3),
    }  # fmt: skip
    print(json.dumps(result))


def derive(model: Path, file: Path, in_memory: bool) -> None:
    """Drop three parts of an exported file; what it took of memory and time."""
    loaded = load(model)
    anatomy, began = read_anatomy(loaded), time.monotonic()
    read = ParentGraph.read if in_memory else ParentGraph.read_in_place
    units = (Unit(3, Kind.MLP), Unit(7, Kind.ATTENTION), Unit(9, Kind.MLP))
    architecture = Architecture.parent(anatomy.depth).drop(*units)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        path = read(file, anatomy, loaded).derive(architecture, Path(folder) / file.name)
        size = sum(each.stat().st_size for each in path.parent.iterdir()) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    result = {"in_memory": in_memory, "peak_mib": peak, "file_mib": size, "seconds": time.monotonic() - began}
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("--shape", choices=SHAPES, required=True)
    making.add_argument("--layers", type=int, help="fewer blocks than the shape has, where the disk lacks room")
    making.add_argument("--out", type=Path, required=True)
    running = verbs.add_parser("run")
    running.add_argument("--model", type=Path, required=True)
    running.add_argument("arguments", nargs=argparse.REMAINDER)
    deriving = verbs.add_parser("derive")
    deriving.add_argument("--model", type=Path, required=True)
    deriving.add_argument("--file", type=Path, required=True)
    deriving.add_argument("--in-memory", action="store_true")
    given = parser.parse_args()
    if given.verb == "make":
        make(given.shape, given.layers, given.out)
    elif given.verb == "derive":
        derive(given.model, given.file, given.in_memory)
    else:
        run(given.model, [each for each in given.arguments if each != "--"])


if __name__ == "__main__":
    main()
