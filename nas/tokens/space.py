"""What `--tokens` means for a model: a fixed schedule, or where stages may be, how much they leave, and who chooses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from latency_models.targets import Target
from latency_models.workload import Phase, Workload
from nas.data.padding import needs_padding, settle_padding
from nas.parent.parent import ParentModel
from nas.profiling.token_staircase import load_steps
from nas.quality.evaluator import Evaluator, choose_evaluator
from nas.quality.prompt import PromptEvaluator, build_prompts
from nas.request.choices import OFF, SEARCH
from nas.results.certificate import Certificate
from nas.search.problem import keep_ratio
from nas.tokens.long_texts import build_long_evaluator, needs_long_texts
from pruning.anatomy.part import is_vision_language
from pruning.reduction.inspection import find_token_hooks
from pruning.surgery.prune import read_architecture
from search_spaces.errors import UsageError
from search_spaces.level import THOUSAND, round_to_permille
from search_spaces.presets import parse_preset
from search_spaces.schedule import Reduction, Scorer, Stage
from search_spaces.servable import Servable
from search_spaces.space import Space

RATIOS = (0.75, 0.5, 0.35, 0.25, 0.125)
DEEP = 16  # blocks; of more every second may have a stage before it
_CLASS_TOKENS = ("cls_token", "class_embedding")


def check_workload(parent: ParentModel, workload: Workload, tokens: str) -> None:
    """Refuse a workload in which a decoder drops nothing, and any in a model that cannot do without tokens.

    Raises:
        UsageError: one that is not prefill, or one stack of several.
    """
    if tokens != OFF and parent.anatomy.part is not None:
        raise UsageError(
            f"tokens {tokens}: the {parent.anatomy.part} of {parent.id} hands on all of its tokens; take --tokens {OFF}"
        )
    if tokens != OFF and parent.anatomy.is_decoder and workload.phase is not Phase.PREFILL:
        asked = f"batch={workload.batch},seq={workload.sequence}"
        raise UsageError(
            f"workload {workload}: a decoder drops tokens where it reads a prompt; write --workload prefill:{asked}"
        )


def choose_workload_with_tokens(parent: ParentModel, usual: Workload, tokens: str) -> Workload:
    """The workload when none was asked for: a decoder's prompt of the usual size where tokens are dropped."""
    if tokens == OFF or not parent.anatomy.is_decoder or usual.phase is Phase.PREFILL:
        return usual
    return Workload(Phase.PREFILL, usual.batch, usual.sequence)


def add_tokens(
    space: Space,
    parent: ParentModel,
    target: Target,
    workload: Workload,
    tokens: str,
    servable: Servable = Servable.ANY,
) -> Space:
    """The space that `tokens` asks for, with the usual reduction where stages are searched.

    Raises:
        UsageError: a preset that this model cannot have, or a rule of other engines, which drop no tokens.
    """
    if tokens == OFF:
        return space
    if is_vision_language(parent.model) and parent.shape.droppable is None:
        raise UsageError(
            f"tokens {tokens}: {parent.id} the number of image tokens depends on the image size, and files need a "
            f"fixed number; take --tokens {OFF}"
        )
    if servable is not Servable.ANY:
        raise UsageError(f"--servable {servable} and --tokens {tokens}: other engines drop no tokens; leave one out")
    if needs_long_texts(space.choices):
        raise UsageError(
            f"--tokens {tokens} and windows of attention: a window counts tokens that stages drop; leave one out"
        )
    if tokens != SEARCH:
        causal, scorer = parent.anatomy.is_decoder, choose_default_reduction(parent).scorer
        return replace(space, fixed=parse_preset(tokens, space.depth, causal=causal, scorer=scorer))
    ratios = _list_ratios(parent, target, workload)
    if not ratios or space.depth < 2:
        raise UsageError(f"workload {workload}: {parent.id} has no tokens to drop; take --tokens {OFF}")
    every = 1 if space.depth <= DEEP else 2
    return space.allow_tokens(choose_default_reduction(parent), range(every, space.depth, every), ratios)


def keep_tokens_only(space: Space) -> Space:
    """The space with nothing but its steps of token reduction.

    Raises:
        UsageError: it has none.
    """
    if not space.steps:
        raise UsageError(f"--units none leaves nothing to search; add --tokens {SEARCH} or name units")
    return replace(space, choices=space.steps)


def choose_default_reduction(parent: ParentModel) -> Reduction:
    """Drop, rank by the next block: asked is a decoder's last token, an image's class token, else the mean of all."""
    if parent.anatomy.is_decoder:
        return Reduction(Scorer.LAST)
    names = (name for name, _ in parent.model.named_parameters())
    has_class = any(name.endswith(_CLASS_TOKENS) for name in names)
    return Reduction(Scorer.CLASS if has_class else Scorer.MEAN)


def build_evaluator_with_tokens(parent: ParentModel, workload: Workload, tokens: str) -> Evaluator:
    """Who judges candidates: where tokens go, texts are as long as the workload's and a prompt is judged at its end.

    Raises:
        BadData: the data does not fill such texts.
    """
    model = parent.placed
    if tokens == OFF or parent.tokenizer is None or is_vision_language(model):
        return choose_evaluator(model, parent.dataset, parent.cache)
    dataset = parent.read_dataset(workload.sequence)
    if parent.is_language_model:
        return PromptEvaluator(model, build_prompts(dataset))
    return choose_evaluator(model, dataset)


def build_evaluator_of_space(parent: ParentModel, workload: Workload, tokens: str, space: Space) -> Evaluator:
    """Who judges the candidates of a space.

    Raises:
        UsageError, BadData: texts of the length that they need cannot be had.
    """
    if needs_long_texts(space.choices):
        return build_long_evaluator(parent, workload)
    return build_evaluator_with_tokens(parent, workload, tokens)


def build_candidate_evaluator(parent: ParentModel, candidate: Any, folder: Path) -> Evaluator:
    """Who judges a finished model: one whose quality depends on the length of texts on such as it was searched with.

    Args:
        folder: the candidate's; its certificate tells the workload.

    Raises:
        MeasurementError: a candidate that drops tokens, or has windows, and no certificate that can be read.
    """
    if needs_padding(candidate) and parent.tokenizer is not None:
        settle_padding(candidate, parent.tokenizer)
    by_length = needs_long_texts(read_architecture(candidate, parent.anatomy.depth).choices)
    if find_token_hooks(candidate) is None and not by_length:
        return choose_evaluator(parent.placed, parent.dataset, parent.cache)
    workload = Certificate.load(folder / "certificate.json").workload
    return (
        build_long_evaluator(parent, workload) if by_length else build_evaluator_with_tokens(parent, workload, SEARCH)
    )


def count_droppable(parent: ParentModel, workload: Workload) -> tuple[int, str]:
    """How many tokens of a sequence may be dropped, and what people call them."""
    images = parent.shape.tokens is not None or is_vision_language(parent.model)
    length = workload.past if workload.phase is Phase.DECODE else workload.sequence
    return parent.shape.count_droppable(length), "image tokens" if images else "droppable tokens"


def build_snapping(parent: ParentModel, target: Target, workload: Workload) -> Callable[[float], float]:
    """The largest share of the tokens that takes no longer than a share, by the steps that are known of the target.

    Shares that leave as many tokens are one: that of the space's own levels, else the smallest in thousandths. Two
    names of one model would be measured against each other, and the slower by chance refused.
    """
    steps, length = load_steps(parent, target, workload), workload.sequence
    droppable = parent.shape.count_droppable(length)
    if droppable <= 1:
        return keep_ratio

    def count_left(ratio: float) -> int:
        return int(Stage(0, round_to_permille(ratio)).count_kept(droppable))

    thousandths = (permille / THOUSAND for permille in range(THOUSAND, 0, -1))
    names = {count_left(ratio): ratio for ratio in (*thousandths, *_list_ratios(parent, target, workload))}
    return lambda ratio: names[count_left(steps.snap(ratio, droppable, length - droppable))]


def _list_ratios(parent: ParentModel, target: Target, workload: Workload) -> tuple[float, ...]:
    """The shares that stages may leave, at the ends of the target's steps."""
    length = workload.sequence
    droppable = parent.shape.count_droppable(length)
    steps = load_steps(parent, target, workload)
    return steps.list_ratios(RATIOS, droppable, length - droppable) if droppable > 1 else ()
