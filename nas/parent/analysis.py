"""Measuring how redundant a parent and its tokens are; of a streamed one each block is read once for all items."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from filelock import FileLock, Timeout

from nas.data.dataset import Split
from nas.parent.analysis_batches import group_observed_batches, list_analysis_batches
from nas.parent.parent import ParentModel
from nas.progress import Progress, open_timed_stage, track_items
from pruning.analysis.redundancy import Redundancy, RedundancyObserver
from pruning.analysis.token_redundancy import TokenObserver, TokenRedundancy
from pruning.analysis.traversal import ObservedBatch, run_in_turn, run_together
from pruning.analysis.traversal_state import TraversalState
from pruning.inference.residency import is_streamed
from search_spaces.errors import BadData, UnreadableModel

_REVISION = 1  # of what is measured
_PARTS, _TOKENS = "analysing redundancy", "analysing tokens"


def analyse(
    parent: ParentModel, progress: Progress, of_tokens: Split | None = None
) -> tuple[Redundancy, TokenRedundancy | None]:
    """How redundant the parts of a parent are on its calibration items, and the tokens of other items.

    The analysis of a streamed parent goes on where it was killed.

    Args:
        of_tokens: the items whose tokens are looked at; None for nobody's.

    Returns:
        Without the tokens where nobody asked, or where they cannot be told apart; a message says why.

    Raises:
        BadData: there is no token to compare.
    """
    tokens = None if of_tokens is None else _observe_tokens(parent, progress)
    hands_on_more = any(block.needed for block in parent.anatomy.blocks)  # than the states that are kept of batches
    if is_streamed(parent.placed) and not hands_on_more:
        parts = _analyse_together(parent, progress, tokens, of_tokens)
    else:
        parts = RedundancyObserver(parent.anatomy)
        batches = track_items(progress, _PARTS, list_analysis_batches(parent))
        run_in_turn(parent.placed, parent.anatomy, parts, batches)
        if tokens is not None:
            batches = track_items(progress, _TOKENS, list_analysis_batches(parent, of_tokens))
            run_in_turn(parent.placed, parent.anatomy, tokens, batches)
    return parts.average(), None if tokens is None else _average_tokens(tokens, progress)


def _analyse_together(
    parent: ParentModel, progress: Progress, tokens: TokenObserver | None, of_tokens: Split | None
) -> RedundancyObserver:
    with _open_folder(parent) as folder, open_timed_stage(progress, _PARTS) as report:
        state = TraversalState(folder, _build_key(parent, of_tokens if tokens is not None else None))
        parts = RedundancyObserver(parent.anatomy, state.file)
        observed = [ObservedBatch(parts, number, batch) for number, batch in enumerate(list_analysis_batches(parent))]
        if tokens is not None:
            batches = list_analysis_batches(parent, of_tokens)
            observed += [ObservedBatch(tokens, number, batch) for number, batch in enumerate(batches)]
        run_together(parent.placed, parent.anatomy, group_observed_batches(parent, observed), state, report)
    return parts


def _observe_tokens(parent: ParentModel, progress: Progress) -> TokenObserver | None:
    if parent.anatomy.part is not None:
        progress.show_message(f"tokens are not analysed: the {parent.anatomy.part} hands on all of its tokens")
        return None
    try:
        return TokenObserver(parent.placed, parent.anatomy)
    except UnreadableModel as error:
        progress.show_message(f"tokens are not analysed: {error}")
        return None


def _average_tokens(tokens: TokenObserver, progress: Progress) -> TokenRedundancy | None:
    try:
        return tokens.average()
    except (BadData, UnreadableModel) as error:
        progress.show_message(f"tokens are not analysed: {error}")
        return None


@contextmanager
def _open_folder(parent: ParentModel) -> Iterator[Path]:
    """Where an analysis writes down how far it is; one that is kept for nobody where another process is at work."""
    folder = parent.cache / "analysis"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        with TemporaryDirectory(dir=folder) as own:
            yield Path(own)
        return
    try:
        yield folder
    finally:
        lock.release()


def _build_key(parent: ParentModel, of_tokens: Split | None) -> str:
    """Of all that the outcome depends on, to the last bit, besides the parent."""
    of = "none" if of_tokens is None else of_tokens.digest
    return f"{_REVISION}-{parent.dataset.calibration.digest}-{of}-{torch.__version__}-{torch.get_num_threads()}"
