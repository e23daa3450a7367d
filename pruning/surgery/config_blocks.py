"""The config of a model that lost whole blocks: what it says of a block moves with the block.

Configs speak of their blocks in four ways: one entry for each block, a list of the blocks that are special, how many
of the first or last are, and settings for single blocks by index. Which blocks are special may also follow from a
block's place alone (every second one); blocks cannot be taken out of such a pattern, which is refused.
"""

from collections.abc import Callable
from typing import Any

from search_spaces.errors import ArchitectureError

# Lists of block indices, counted from 0.
INDICES = {
    "attn_layer_indices",
    "cross_attention_layers",
    "full_attn_idxs",
    "fullatt_block_indexes",
    "global_attn_indexes",
    "local_layer_ids",
    "mlp_only_layers",
    "moe_layers",
    "rope_scaling_layers",
    "subsample_layers",
    "value_embedding_layers",
    "window_block_indexes",
    "window_block_indices",
}
# How many of the first blocks are special, which is also the index of the first that is not.
FIRST = {"first_k_dense_replace", "max_window_layers", "moe_layer_start_index", "num_dense_layers"}
LAST = {"num_kv_shared_layers"}  # how many of the last blocks are special
ENDS = {"moe_layer_end_index"}  # the index of the last special block; -1 for the last of all
# One entry for each block, under a name without the word "layer".
ENTRIES = {
    "activation_sparsity_pattern",
    "attention_window",
    "block_types",
    "conv_residual_weights",
    "feed_forward_residual_weights",
    "indexer_types",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
}
DEPTHS = ("num_hidden_layers", "depth", "num_layers")  # the first is the usual one
PATTERNS = ("layer_types", "layers_block_type", "mlp_layer_types")  # some configs work these out when asked


def find_depth_name(config: Any) -> str:
    """What a config calls the number of its blocks."""
    return next((name for name in DEPTHS if isinstance(getattr(config, name, None), int)), DEPTHS[0])


def keep_blocks(config: Any, kept: list[int]) -> None:
    """Let a config describe only these of its blocks, in place.

    Args:
        config: the one that says how many blocks there are.
        kept: indices of blocks, rising.

    Raises:
        ArchitectureError: the config derives the kind of a block from its place.
    """
    name_of_depth = find_depth_name(config)
    depth = getattr(config, name_of_depth)
    patterns = {name: getattr(config, name, None) for name in PATTERNS}
    overrides = config.to_dict().get("per_layer_config") if getattr(config, "is_heterogeneous", False) else None
    values = {key: _keep(key, value, kept, depth) for key, value in vars(config).items() if not key.startswith("_")}
    changed = {key: value for key, value in values.items() if value is not None}
    for key, value in {**changed, name_of_depth: len(kept)}.items():
        _set(config, key, value)
    if overrides:
        by_layer = {int(layer): settings for layer, settings in overrides.items()}
        config.per_layer_config = {kept.index(layer): by_layer[layer] for layer in kept if layer in by_layer}
    for name, pattern in patterns.items():
        if _is_entries(pattern, depth) and list(getattr(config, name)) != list(_pick(pattern, kept)):
            raise ArchitectureError(
                f"a {config.model_type} config works out {name} from a block's place, so these blocks cannot be taken "
                "out; drop attention and MLP units of different blocks instead"
            )


def _set(config: Any, key: str, value: Any) -> None:
    try:
        setattr(config, key, value)
    except (AttributeError, NotImplementedError) as error:  # a property that only works something out
        raise ArchitectureError(
            f"a {config.model_type} config does not let {key} be set, so no block can be taken out; drop attention "
            "and MLP units of different blocks instead"
        ) from error


def _keep(key: str, value: Any, kept: list[int], depth: int) -> Any:
    """The value for the kept blocks, None where it does not speak of single blocks."""
    rules: tuple[tuple[set[str], type | tuple[type, ...], Callable[[Any], Any]], ...] = (
        (INDICES, (list, tuple), lambda listed: [kept.index(layer) for layer in listed if layer in kept]),
        (FIRST, int, lambda first: first if first > depth else sum(layer < first for layer in kept)),
        (LAST, int, lambda last: sum(layer >= depth - last for layer in kept)),
        (ENDS, int, lambda end: end if end < 0 else sum(layer <= end for layer in kept) - 1),
    )
    for names, kind, rule in rules:
        if key in names:
            return rule(value) if isinstance(value, kind) else None
    entries = _is_entries(value, depth) and ("layer" in key or key in ENTRIES)
    return _pick(value, kept) if entries else None


def _is_entries(value: Any, depth: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == depth


def _pick(value: Any, kept: list[int]) -> Any:
    return type(value)(value[layer] for layer in kept)
