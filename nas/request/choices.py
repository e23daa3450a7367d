"""The words a request may hold, checked without loading what they stand for: a server reads requests without torch."""

import re

from search_spaces.errors import UsageError
from search_spaces.presets import PRESETS
from search_spaces.weight_formats import ALL_FORMATS

OFF, SEARCH = "off", "search"  # of --tokens, beside the presets
ENGINE = "nas"  # the method that is none of the published ones
ADD_BACK = "+add-back"
AUTO = "auto"  # the precision that is chosen for the processor, the compensation that fits in memory

# The names in the registries of nas.search.methods, which import what they compute with; a test compares.
METHODS = (
    "cosine-joint", "cosine-attention", "cosine-mlp", "cosine-block", "reverse", "random", "window", "sprint",
    "sleb", "sleb-per-ms", "finercut", "finercut-per-ms", "evopress",
)  # fmt: skip
COMPENSATIONS = ("bias", "refit", "merge")  # of pruning.compensation
ARITHMETIC = ("fp32", "bf16")  # of evaluations, as in nas.quality.precision
FULL = "fp32"  # the precision of a model whose matrices keep theirs
QUALITY, DRAFT = "quality", "draft"  # what a search looks for
GOALS = (QUALITY, DRAFT)
PROJECTIONS, LORA, ALL = "projections+norms", "lora", "all"  # what is trained when a model is healed
TRAINED = (PROJECTIONS, LORA, ALL)
STREAMING = ("auto", "always", "never")  # as in pruning.inference.residency
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
WIDTH_METHODS = ("flap", "wanda-sp")
TOKEN_METHODS = ("pyramiddrop", "random-tokens", "fastv", "tome", "equal-steps", "dop")


def check_method(name: str) -> str:
    """A method's name, if it is one.

    Raises:
        UsageError: it is none.
    """
    if name not in (ENGINE, *TOKEN_METHODS, *WIDTH_METHODS) and name.removesuffix(ADD_BACK) not in METHODS:
        raise UsageError(
            f"method {name!r} is none of {ENGINE}, {', '.join(METHODS)} (each but {ENGINE} also with {ADD_BACK}), "
            f"{', '.join((*TOKEN_METHODS, *WIDTH_METHODS))}"
        )
    return name


def check_tokens(text: str) -> str:
    """What was asked, if it is `off`, `search` or begins with the name of a preset.

    Raises:
        UsageError: it is none of them.
    """
    name = text.partition(":")[0].strip()
    if name not in (OFF, SEARCH, *PRESETS) or (name in (OFF, SEARCH) and name != text):
        raise UsageError(f"tokens {text!r} is none of {OFF}, {SEARCH}, {', '.join(PRESETS)}; for example fastv:2=0.5")
    return text


def check_compensation(asked: str) -> str:
    """`auto`, `off` or the name of a closed form.

    Raises:
        UsageError: it is neither.
    """
    if asked not in (AUTO, OFF, *COMPENSATIONS):
        raise UsageError(f"compensate {asked!r} is none of {AUTO}, {OFF}, {', '.join(COMPENSATIONS)}")
    return asked


def check_goal(asked: str) -> str:
    """What a search looks for.

    Raises:
        UsageError: it is none.
    """
    if asked not in GOALS:
        raise UsageError(f"goal {asked!r} is none of {', '.join(GOALS)}")
    return asked


def check_trained(asked: str) -> str:
    """The name of a set of weights that healing trains.

    Raises:
        UsageError: it is none.
    """
    if asked not in TRAINED:
        raise UsageError(f"train {asked!r} is none of {', '.join(TRAINED)}")
    return asked


def check_arithmetic(asked: str) -> str:
    """`auto`, or the precision in which trials are evaluated.

    Raises:
        UsageError: it is neither.
    """
    if asked not in (AUTO, *ARITHMETIC):
        raise UsageError(f"evaluate-in {asked!r} is none of {AUTO}, {', '.join(ARITHMETIC)}")
    return asked


def check_device(asked: str) -> str:
    """The name of a device; whether it is here is found out where it is used.

    Raises:
        UsageError: it is none.
    """
    if not _DEVICE.fullmatch(asked):
        raise UsageError(f"device {asked!r} is none of auto, cpu, cuda, cuda:N and mps; write for example cuda:0")
    return asked


def check_streaming(asked: str) -> str:
    """When blocks are streamed.

    Raises:
        UsageError: none of these words.
    """
    if asked not in STREAMING:
        raise UsageError(f"stream {asked!r} is none of {', '.join(STREAMING)}")
    return asked


def check_precision(asked: str) -> str:
    """`fp32`, `search`, or the name of a format of weights.

    Raises:
        UsageError: it is none.
    """
    if asked not in (FULL, SEARCH, *ALL_FORMATS):
        raise UsageError(f"precision {asked!r} is none of {FULL}, {SEARCH}, {', '.join(ALL_FORMATS)}")
    return asked
