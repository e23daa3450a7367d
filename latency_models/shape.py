"""The numbers of a model from which work and traffic follow: no weights, no framework."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from latency_models.block_shape import AttentionShape, BlockShape, LinearShape, Load, MlpShape
from latency_models.workload import Phase, Workload
from search_spaces.kinds import AFTER_BLOCKS

SPECIAL = 1  # class token or start of a text, which an encoder keeps
SINKS, RECENT = 4, 32  # first and last tokens of a prompt, which a decoder keeps
QUESTION = 16  # tokens of a question about an image


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a transformer of `depth` blocks: numbers that describe all of them, or `blocks` where they are unlike.

    Attributes:
        hidden, heads, kv_heads, head_dim: of the attention; keys and values have `kv_heads` heads.
        intermediate: MLP width; `gated` MLPs have three matrices, others two.
        experts: how many experts an MLP has; `active_experts` of them run for a token.
        outputs: width of the head (vocabulary or classes), 0 without one.
        head_per_token: whether the head runs for every token (language model) or once per sequence.
        window: sliding window of each block's attention, None where it sees everything.
        causal: whether a token sees only earlier ones.
        stem: parameters outside the blocks (embeddings, final norm, head).
        tokens: tokens of one image, or of one recording; None for text.
        droppable: tokens of a sequence that token reduction may drop where their number is fixed, as that of a
            prompt's image tokens; None: all but the first, in a decoder all but the first four and the last 32.
        blocks: of each block what it is made of; None where the numbers above say it. Where it is given they are
            those of the first block that attends to pairs of tokens.

    Example:
        >>> minilm = ModelShape(
        ...     depth=6, hidden=384, heads=12, kv_heads=12, head_dim=32, intermediate=1536, gated=False, outputs=0,
        ...     head_per_token=False, window=(None,) * 6, causal=False, stem=11_918_208,
        ... )
        >>> minilm.attention_weights
        589824
    """

    depth: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    outputs: int
    head_per_token: bool
    causal: bool
    stem: int
    window: tuple[int | None, ...]
    experts: int = 1
    active_experts: int = 1
    tokens: int | None = None
    droppable: int | None = None
    blocks: tuple[BlockShape, ...] | None = None

    def __post_init__(self) -> None:
        sizes = (self.depth, self.hidden, self.heads, self.kv_heads, self.head_dim, self.intermediate, self.experts)
        if min(sizes) < 1 or len(self.window) != self.depth or not 1 <= self.active_experts <= self.experts:
            raise ValueError(f"not a model shape: {self}")
        if self.blocks is not None and len(self.blocks) != self.depth:
            raise ValueError(f"a model shape has {self.depth} blocks and describes {len(self.blocks)}")

    @property
    def ties_head(self) -> bool:
        """Whether the weights of the head are those of the embedding: the stem has room for one of them only."""
        head = self.hidden * self.outputs
        return self.head_per_token and head <= self.stem < 2 * head

    @property
    def attention_weights(self) -> int:
        """Matrix parameters of one attention: Q, K, V and output."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def expert_weights(self) -> int:
        """Matrix parameters of one MLP expert."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    def get_block(self, layer: int) -> BlockShape:
        """The block of this index, or what follows the blocks."""
        if layer == AFTER_BLOCKS:
            return BlockShape(None, None, LinearShape(self.hidden * self.outputs))
        return self.alike if self.blocks is None else self.blocks[layer]

    def compute_load(self, layer: int, workload: Workload) -> Load:
        """What the parts of the block of this index work on."""
        return Load(self.hidden, self.causal, self.window[layer], workload)

    @cached_property
    def alike(self) -> BlockShape:
        """The block that the numbers describe; the router of a mixture is not among them."""
        pair, cached = 2 * self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim
        attention = AttentionShape(self.attention_weights, self.heads, pair, cached)
        inner = (2 if self.gated else 1) * self.intermediate * self.active_experts
        if self.experts == 1:
            return BlockShape(attention, MlpShape(self.expert_weights, inner))
        return BlockShape(attention, MlpShape(0, inner, self.experts, self.expert_weights, self.active_experts))

    def count_droppable(self, length: int) -> int:
        """How many tokens of a sequence of this length token reduction may drop."""
        if self.droppable is not None:
            return min(self.droppable, length)
        return max(0, length - (SINKS + RECENT if self.causal else SPECIAL))

    def choose_default_workload(self, small: bool) -> Workload:
        """One that suits the model; `small` for a CPU that measures, large for an accelerator's data sheet."""
        if self.tokens is not None:
            return Workload(Phase.FORWARD, 8 if small else 256, self.tokens)
        if self.causal and self.droppable:
            return Workload(Phase.PREFILL, 1, self.droppable + QUESTION)
        if self.causal:
            return Workload(Phase.FORWARD, 1, 256) if small else Workload(Phase.FORWARD, 32, 1024)
        return Workload(Phase.FORWARD, 4, 64) if small else Workload(Phase.FORWARD, 64, 128)

    def to_json(self) -> dict[str, Any]:
        """The JSON form; without `droppable` and `blocks` where they are None, as the first release wrote it."""
        document = {**asdict(self), "window": list(self.window)}
        if self.blocks is not None:
            document["blocks"] = [block.to_json() for block in self.blocks]
        optional = ("droppable", "blocks")
        return {key: value for key, value in document.items() if key not in optional or value is not None}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "ModelShape":
        """Read what `to_json` writes."""
        blocks = document.get("blocks")
        read = None if blocks is None else tuple(BlockShape.from_json(block) for block in blocks)
        return cls(**{**document, "window": tuple(document["window"]), "blocks": read})
