"""Architectures as the parameters of a study: `keep` or `drop` for each part, the share of tokens for each stage.

One parameter for each place a stage may be, not for each token unit, of which most say what others say already.
"""

from collections.abc import Mapping

from optuna.distributions import CategoricalDistribution

from search_spaces.architecture import Architecture
from search_spaces.space import Space
from search_spaces.tokens import THOUSAND
from search_spaces.unit import Kind, Unit

LEVELS = ("keep", "drop")


def distributions(space: Space) -> dict[str, CategoricalDistribution]:
    """The choices of every parameter; the first of each is the parent's."""
    parts = {str(unit): CategoricalDistribution(LEVELS) for unit in space.structure}
    stages = {name: CategoricalDistribution([_share(THOUSAND), *found]) for name, found in _stages(space).items()}
    return parts | stages


def encode(space: Space, architecture: Architecture) -> dict[str, str]:
    """The parameters of an architecture; the share of the tokens that a block works on where a stage may be."""
    parts = {str(unit): LEVELS[architecture.drops(unit)] for unit in space.structure}
    stages = {}
    for name, found in _stages(space).items():
        dropped = [share for share, unit in found.items() if architecture.drops(unit)]
        stages[name] = dropped[-1] if dropped else _share(THOUSAND)
    return parts | stages


def decode(space: Space, levels: Mapping[str, str]) -> Architecture:
    """The architecture of the parameters: shares rise to the least before them, as tokens do not come back."""
    dropped = {unit for unit in space.structure if levels[str(unit)] == LEVELS[1]}
    dropped |= {found[levels[name]] for name, found in _stages(space).items() if levels[name] in found}
    return space.decode(dropped)


def _stages(space: Space) -> dict[str, dict[str, Unit]]:
    """For every place of a stage its token units by the share they leave, largest first."""
    found: dict[str, dict[str, Unit]] = {}
    for unit in sorted((u for u in space.units if u.kind is Kind.TOKENS), key=lambda u: (u.layer, -u.permille)):
        found.setdefault(f"{unit.kind}.{unit.layer}", {})[_share(unit.permille)] = unit
    return found


def _share(permille: int) -> str:
    return f"{permille / THOUSAND:g}"
