"""The winner in a result folder, loaded with its parent to be healed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.healing.recipe import Recipe
from nas.healing.student import Student, choose_training_data
from nas.parent.parent import ParentModel, compute_weights_digest, load_parent_model
from nas.request.search_request import SearchRequest
from nas.tokens.space import build_candidate_evaluator
from pruning.checkpoint import load
from pruning.checkpoint.stored_precision import remember_precision
from pruning.checkpoint.weight_files import find_weights, read_headers, read_stored_dtypes
from search_spaces.architecture import Architecture
from search_spaces.errors import ModelError, UsageError

FOLDER = "winner"  # of a result folder


@dataclass(frozen=True)
class Winner:
    """The winner of a search that is finished.

    Attributes:
        parent: of the search.
        model: the winner, in float32.
        digest: of the winner's weights before anything is trained.
        result: the document of the search.
        folder: the winner's.
    """

    parent: ParentModel
    model: Any
    architecture: Architecture
    digest: str
    result: dict[str, Any]
    folder: Path

    def build_student(self, recipe: Recipe) -> Student:
        """The winner with what judges it and what it is trained on."""
        evaluator = build_candidate_evaluator(self.parent, self.model, self.folder)
        training_data = choose_training_data(self.parent, evaluator, [self.architecture], recipe)
        return Student(self.parent.placed, self.parent.anatomy, self.model, self.architecture, evaluator, training_data)


def load_winner(folder: Path, result: dict[str, Any]) -> Winner:
    """The winner in a result folder.

    Args:
        result: its `result.json`.

    Raises:
        UsageError: its architecture cannot be read, or it is the parent itself.
        ModelError: the parent's weights are not those of the search.
    """
    request, own = SearchRequest.load(folder), folder / FOLDER
    parent = load_parent_model(request.model, request.data, request.trust_remote_code, part=request.part)
    if parent.digest != result["model"]["hash"]:
        raise ModelError(
            f"{parent.id} has other weights than the parent of the search in {folder}; put those back, or search again"
        )
    try:
        architecture = Architecture.from_json(json.loads((own / "architecture.json").read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{own / 'architecture.json'} cannot be read ({error}); continue with: {request.resume_command}"
        ) from None
    if not architecture.choices:
        raise UsageError(f"the winner in {folder} is the parent itself, so nothing is to be healed; lower the budget")
    model = load(own, torch.float32, request.trust_remote_code)
    remember_precision(model, read_stored_dtypes(read_headers(find_weights(own))))
    return Winner(parent, model, architecture, compute_weights_digest(model), result, own)
