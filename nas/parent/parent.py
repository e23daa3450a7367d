"""The parent model: its weights with everything that is known of it before anything is searched."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from latency_models.shape import ModelShape
from nas.data.dataset import Dataset, Split, load_dataset
from nas.data.padding import needs_padding, settle_padding
from nas.parent.reference_models import DEFAULT, ReferenceModel, find_reference
from nas.parent.shape import read_shape
from nas.request.choices import check_device, check_streaming
from nas.storage.cache_folder import get_cache_folder
from pruning.anatomy.anatomy import Anatomy, read_anatomy
from pruning.anatomy.part import PART
from pruning.checkpoint import load_parent
from pruning.checkpoint.sentence_embedding import read_sentence_embedding
from pruning.checkpoint.tokenizer import load_tokenizer
from pruning.inference.device import CPU, find_device, place
from pruning.inference.residency import NEVER, decides_to_stream, release_tensors, stream, streaming
from pruning.inference.widening import widen_tensor
from search_spaces.errors import BadData, ModelError

_PIECE = 1 << 22  # numbers of a tensor that are hashed at a time


@dataclass(frozen=True)
class ParentModel:
    """A loaded parent.

    Attributes:
        id: what the user called it.
        folder: where its files are; None for a hub id.
        data: the data that belongs to it or that was given; None where there is none.
        digest: names its weights.
        trust_remote_code: whether code that the model, its tokenizer or its processor carries may run.
        device: where it is evaluated; `model` stays on the CPU, from where it is exported.

    Example:
        >>> parent = load_parent_model("python-lm")
        >>> parent.is_language_model
        True
    """

    id: str
    folder: Path | None
    data: Path | None
    model: Any
    anatomy: Anatomy
    shape: ModelShape
    digest: str
    reference: ReferenceModel | None
    trust_remote_code: bool = False
    device: torch.device = field(default_factory=find_device)

    @cached_property
    def placed(self) -> Any:
        """The model on the device where it is evaluated; its data are there too."""
        return place(self.model, self.device)

    @cached_property
    def dataset(self) -> Dataset:
        """Its data in three splits.

        Raises:
            BadData: none was given and none belongs to the model.
        """
        return self.read_dataset(None)

    def read_dataset(self, length: int | None) -> Dataset:
        """The same with windows or texts of `length` tokens; what was read once is kept.

        Raises:
            BadData: as `dataset`, or the length does not fit model or data.
        """
        if self.data is None:
            raise BadData(f"model {self.id} has no data of its own; give some with --data FILE or DIR")
        if length not in self._datasets:
            read = load_dataset(self.model, self.tokenizer, self.data, length, self.trust_remote_code)
            self._datasets[length] = read.to(self.device)
        return self._datasets[length]

    def load_more_calibration(self, windows: int) -> Split:
        """The calibration split of a language model, of up to so many windows.

        Raises:
            BadData: as `dataset`.
        """
        assert self.data is not None, "it was read for the dataset"
        read = load_dataset(self.model, self.tokenizer, self.data, None, self.trust_remote_code, windows)
        return read.calibration.to(self.device)

    @cached_property
    def _datasets(self) -> dict[int | None, Dataset]:
        return {}

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer; None for images, and where the folder has none.

        Raises:
            ModelError: it cannot be read, or needs code that was not allowed.
        """
        if self.model.main_input_name != "input_ids":
            return None
        return load_tokenizer(self.folder or self.id, self.trust_remote_code)

    @property
    def files(self) -> Path | None:
        """Where its files lie: its folder, or that of a hub id in the library's cache; None where there is neither."""
        if self.folder is not None:
            return self.folder
        from transformers.utils import cached_file

        config = cached_file(self.id, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
        return None if config is None else Path(config).parent

    @property
    def is_language_model(self) -> bool:
        """Whether it is a causal decoder with a language-model head, and nothing else."""
        return self.anatomy.is_decoder and self.shape.head_per_token and self.anatomy.part is None

    @property
    def cache(self) -> Path:
        """The folder for what can be kept about these weights."""
        return get_cache_folder() / self.digest


def load_parent_model(
    source: str | None,
    data: Path | None = None,
    trust_remote_code: bool = False,
    device: str = CPU,
    stream_when: str = NEVER,
    part: str | None = None,
) -> ParentModel:
    """Load a parent and read its structure.

    Args:
        source: a folder, a hub id, the name of a reference model, or None for the default one.
        data: the user's `--data`; else the data of a reference model.
        device: where it is evaluated, as `find_device` takes it.
        stream_when: whether the weights of a block are let go of when it has run: auto, always or never.
        part: of several stacks the one that is pruned: encoder or decoder, language or vision, text or vision.

    Raises:
        UsageError: no such device, or one on which nothing is streamed; a part that the model does not have.
        ModelError: it cannot be loaded or read.
        MissingExtra: a reference model needs a package.
    """
    place_of_work, name = find_device(check_device(device)), source or DEFAULT
    reference = find_reference(name)
    location = reference.folder if reference else name
    model = load_parent(location, trust_remote_code=trust_remote_code, part=part)
    folder = Path(location).expanduser() if Path(location).expanduser().is_dir() else None
    shown = reference.name if reference else name
    if needs_padding(model) and (tokenizer := load_tokenizer(folder or shown, trust_remote_code)) is not None:
        settle_padding(model, tokenizer)
    with streaming(model):
        anatomy = read_anatomy(model)
        shape, digest = read_shape(model, anatomy), compute_weights_digest(model)
    if decides_to_stream(check_streaming(stream_when), model, place_of_work):
        stream(model)
    own = reference.data if reference else None
    return ParentModel(
        shown, folder, data or own, model, anatomy, shape, digest, reference, trust_remote_code, place_of_work
    )


def compute_weights_digest(model: Any) -> str:
    """Sixteen hexadecimal digits that name the weights and their names, what embeddings are made of them, and which of
    two stacks is pruned.

    Narrow weights are counted as the float32 numbers that they are, piece by piece.

    Raises:
        ModelError: one of them is no number.
    """
    hashed = hashlib.sha256(f"{type(model).__name__}{getattr(model.config, PART, '')}".encode())
    embedding = read_sentence_embedding(model)
    if embedding is not None:
        hashed.update(embedding.digest.encode())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in model.state_dict().items():
        hashed.update(name.encode() + str(tuple(tensor.shape)).encode())
        for piece in map(widen_tensor, tensor.detach().reshape(-1).split(_PIECE)):
            hashed.update(piece.cpu().numpy().data)
            if name in parameters and bool(piece.isnan().any()):
                raise ModelError(f"{name} has weights that are no numbers (NaN); give an undamaged checkpoint")
        release_tensors([tensor])
    return hashed.hexdigest()[:16]
