"""Running a pruned model: its key-value cache, and states that candidates share."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "block_stand_in": ["HandedStates"],
        "kv_cache": ["CacheKeeper", "Left", "PrunedCache", "adapt_decoding", "keeps_own_cache", "list_kept_attentions"],
        "prefix_cache": ["GIB", "Prefix", "PrefixStore", "list_prefixes", "make_resumable"],
        "residency": ["count_mapped", "release_weights", "stream"],
        "widening": ["NARROW", "copy_in_float32", "is_widened", "widen", "widen_tensor"],
    },
)
