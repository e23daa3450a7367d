"""Published methods, one file each, behind two contracts: what a search has to beat at equal milliseconds.

`METHODS` drop parts in an order of theirs; `TOKEN_METHODS` choose a token schedule, or one with parts; `WIDTH_METHODS`
narrow parts.
"""

from nas.search.methods.additive import Additive
from nas.search.methods.equal_steps import EqualSteps
from nas.search.methods.evopress import EvoPress
from nas.search.methods.flap import Flap
from nas.search.methods.greedy import FinerCut, Sleb
from nas.search.methods.method import Method, RemovalOrder, TokenMethod, WidthMethod, add_back, drop_as_published
from nas.search.methods.one_shot import Cosine, RandomOrder, ReverseOrder, Sprint
from nas.search.methods.schedules import SWEPT
from nas.search.methods.wanda_sp import WandaSp
from nas.search.methods.window import Window
from search_spaces.kinds import Kind

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Cosine("cosine-joint", (Kind.ATTENTION, Kind.MLP)),
        Cosine("cosine-attention", (Kind.ATTENTION,)),
        Cosine("cosine-mlp", (Kind.MLP,)),
        Cosine("cosine-block", (Kind.BLOCK,)),
        ReverseOrder(),
        RandomOrder(),
        Window(),
        Sprint(),
        Sleb(per_ms=False),
        Sleb(per_ms=True),
        FinerCut(per_ms=False),
        FinerCut(per_ms=True),
        EvoPress(),
    )
}
ONE_SHOT = tuple(name for name, method in METHODS.items() if isinstance(method, Cosine))
TOKEN_METHODS: dict[str, TokenMethod] = {method.name: method for method in (*SWEPT, EqualSteps(), Additive())}
WIDTH_METHODS: dict[str, WidthMethod] = {method.name: method for method in (Flap(), WandaSp())}

__all__ = [
    "METHODS",
    "ONE_SHOT",
    "TOKEN_METHODS",
    "WIDTH_METHODS",
    "Method",
    "RemovalOrder",
    "TokenMethod",
    "WidthMethod",
    "add_back",
    "drop_as_published",
]
