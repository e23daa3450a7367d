"""The published token schedules by name, for any depth, and controls for them."""

from collections.abc import Sequence

from search_spaces.errors import ArchitectureError, UsageError
from search_spaces.level import round_to_permille
from search_spaces.schedule import Positions, Reducer, Reduction, Schedule, Scorer, Source, Stage

_RATIOS = (0.5, 0.25, 0.125)
_VISIONZIP = 0.112  # 64 of the 576 tokens of LLaVA-1.5
_TOME_LEFT = 0.1  # at the last block: about what r = 16 leaves in ViT-B/16 and r = 8 in ViT-L/16

PRESETS = {
    "pyramiddrop": "pyramiddrop or pyramiddrop:8=0.5,16=0.25,24=0.125 (usual: these ratios at the quarter points)",
    "fastv": "fastv or fastv:2=0.5",
    "tome": "tome or tome:0.08 (the share of the tokens that each block merges; not where attention is causal)",
    "visionzip": "visionzip or visionzip:0.112 (the share of the image tokens that the language model is given)",
    "random": "random or random:8=0.5,16=0.25 (the control: chance ranks)",
    "keys": "keys or keys:8=0.5,16=0.25 (tokens stay whose keys are unlike the mean key)",
    "norm": "norm or norm:8=0.5,16=0.25 (tokens stay whose states are large)",
}


def choose_default_scorer(causal: bool) -> Scorer:
    """Who is asked for attention: the last token of a decoder; of an encoder the class token, which is its first."""
    return Scorer.LAST if causal else Scorer.CLASS


def space_blocks_evenly(depth: int, stages: int) -> tuple[int, ...]:
    """Where `stages` stages cut `depth` blocks into equal parts: before blocks 8, 16 and 24 of 32.

    Raises:
        UsageError: there are not enough blocks.
    """
    if depth <= stages:
        raise UsageError(f"{stages} stages at even distances need more than {depth} blocks; name them, such as 1=0.5")
    return tuple(index * depth // (stages + 1) for index in range(1, stages + 1))


def build_pyramiddrop(
    depth: int,
    ratios: Sequence[float] = _RATIOS,
    blocks: Sequence[int] | None = None,
    *,
    causal: bool = True,
    scorer: Scorer | None = None,
) -> Schedule:
    """PyramidDrop (Xing et al. 2025): the next block's queries and keys rank, the last token asks, the rest is dropped.

    The tokens that stay are numbered anew, as in the published code. An encoder has no last token to ask: there it
    is the class token (or `scorer`), and positions are those that the embedding gave. `random`, `keys` and `norm` are
    this schedule with another scorer and nothing else changed.

    Raises:
        UsageError: too few blocks for that many stages.
        ArchitectureError: blocks that do not rise, ratios that do not fall.
    """
    blocks = space_blocks_evenly(depth, len(ratios)) if blocks is None else blocks
    stages = tuple(Stage(block, round_to_permille(ratio)) for block, ratio in zip(blocks, ratios, strict=True))
    positions = Positions.COMPACTED if causal else Positions.KEPT
    return Schedule(stages, Reduction(scorer or choose_default_scorer(causal), Reducer.DROP, positions, Source.NEXT))


def build_fastv(after: int = 2, keep: float = 0.5, *, causal: bool = True, scorer: Scorer | None = None) -> Schedule:
    """FastV (Chen et al. 2024): one stage after `after` blocks, ranked by the attention of the block that just ran.

    The last token asks (in an encoder the class token, or `scorer`); positions are kept.
    """
    reduction = Reduction(scorer or choose_default_scorer(causal), Reducer.DROP, Positions.KEPT, Source.PREVIOUS)
    return Schedule((Stage(after, round_to_permille(keep)),), reduction)


def build_tome(depth: int, merged: float | None = None) -> Schedule:
    """ToMe (Bolya et al. 2023): every block merges the share `merged` of the original tokens, at most half of its own.

    The paper's r is `merged` times the tokens, up to the rounding to thousandths; by default a tenth of the tokens is
    left at the last block. Two things differ from the paper: stages are between blocks, so tokens are merged after the
    MLP instead of before it, and after the last block none are. Tokens are compared by the keys of the block that just
    ran: the attention that the paper takes them from.

    Raises:
        UsageError: one block only, or a share outside (0, 1].
    """
    if depth < 2:
        raise UsageError("tome merges between blocks and the model has one; leave --tokens out")
    share = (1 - _TOME_LEFT) / (depth - 1) if merged is None else merged
    if not 0 < share <= 1:
        raise UsageError(f"share {share:g} is outside (0, 1]; give the share of the tokens that each block merges")
    left, stages = 1.0, dict[int, int]()  # ratio in thousandths: the first block with it
    for block in range(1, depth):
        left = max(left - share, left / 2)
        stages.setdefault(round_to_permille(left), block)
    reduction = Reduction(Scorer.KEYS, Reducer.MERGE, Positions.KEPT, Source.PREVIOUS)
    return Schedule(tuple(Stage(block, permille) for permille, block in stages.items() if permille < 1000), reduction)


def build_visionzip(keep: float = _VISIONZIP) -> Schedule:
    """VisionZip (Yang et al. 2025): before the language model, by the class token's attention in the vision tower.

    54 of 64 tokens that are left are those with most attention, 10 are means of the others. The language model
    numbers what it is given.
    """
    reduction = Reduction(Scorer.CLASS, Reducer.RECYCLE, Positions.COMPACTED, Source.TOWER)
    return Schedule((Stage(0, round_to_permille(keep)),), reduction)


def parse_preset(text: str, depth: int, *, causal: bool, scorer: Scorer | None = None) -> Schedule:
    """Read a preset as `--tokens` takes it, for example `pyramiddrop:8=0.5,16=0.25`; `PRESETS` has them all.

    Args:
        text: a name, or a name, a colon and its settings.
        depth: how many blocks the model has.
        causal: whether it is a decoder.
        scorer: what ranks in place of the papers' last token, for example the mean in an encoder without a class
            token; by default that of `choose_default_scorer`.

    Raises:
        UsageError: no such preset, settings that it does not take, stages that the model has no blocks for, or
            merging in a decoder.
    """
    name, colon, settings = (part.strip() for part in text.partition(":"))
    if name not in PRESETS:
        raise UsageError(f"token preset {name!r} is none of {', '.join(PRESETS)}; name one of them, off or search")
    if name == "tome" and causal:
        raise UsageError(f"{text}: tokens cannot be merged where attention is causal; take pyramiddrop or fastv")
    try:
        schedule = (
            _apply_settings(name, settings, depth, causal, scorer)
            if colon
            else _build_usual(name, depth, causal, scorer)
        )
    except (ArchitectureError, ValueError) as error:
        raise UsageError(f"{text}: {error}; write {PRESETS[name]}") from None
    beyond = [stage.block for stage in schedule.stages if stage.block >= depth]
    if beyond:
        raise UsageError(f"{text}: there is no block {beyond[0]}; name blocks from 0 to {depth - 1}")
    return schedule


def _build_usual(name: str, depth: int, causal: bool, scorer: Scorer | None) -> Schedule:
    match name:
        case "pyramiddrop":
            return build_pyramiddrop(depth, causal=causal, scorer=scorer)
        case "fastv":
            return build_fastv(causal=causal, scorer=scorer)
        case "tome":
            return build_tome(depth)
        case "visionzip":
            return build_visionzip()
    return build_pyramiddrop(depth, causal=causal, scorer=Scorer(name))


def _apply_settings(name: str, settings: str, depth: int, causal: bool, scorer: Scorer | None) -> Schedule:
    match name:
        case "tome":
            return build_tome(depth, float(settings))
        case "visionzip":
            return build_visionzip(float(settings))
        case "fastv":
            usual = build_fastv(causal=causal, scorer=scorer)
        case "pyramiddrop":
            usual = build_pyramiddrop(depth, (), (), causal=causal, scorer=scorer)
        case _:
            usual = build_pyramiddrop(depth, (), (), causal=causal, scorer=Scorer(name))
    schedule = Schedule.parse(settings, usual.reduction)
    if not schedule.stages or (name == "fastv" and len(schedule.stages) > 1):
        raise ArchitectureError(f"{len(schedule.stages)} stages; {name} has {'one' if name == 'fastv' else 'some'}")
    return schedule
