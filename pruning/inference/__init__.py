"""Running a pruned model: its key-value cache, and states that candidates share."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "block_stand_in": ["HandedStates", "Outcome", "count_outcome_bytes", "read_outcome"],
        "device": [
            "AUTO",
            "CPU",
            "choose_sum_device",
            "count_gpus",
            "find_device",
            "get_device",
            "has_bf16",
            "make_usual",
            "place",
        ],
        "kv_cache": [
            "CacheKeeper",
            "Left",
            "PrunedCache",
            "adapt_decoding",
            "find_windows",
            "fit_cache_to_decoder",
            "keeps_own_cache",
            "list_kept_attentions",
        ],
        "light_copy": ["copy_lightly"],
        "prefix_cache": ["GIB", "Prefix", "PrefixStore", "list_prefixes", "make_resumable"],
        "residency": [
            "NEVER",
            "SMALLEST",
            "count_mapped",
            "decides_to_stream",
            "hold",
            "is_streamed",
            "read_free_memory",
            "release_tensors",
            "release_weights",
            "stream",
            "streaming",
        ],
        "sink_cache": ["SinkLayer"],
        "widening": ["NARROW", "copy_in_float32", "copy_unwidened", "is_widened", "widen", "widen_tensor"],
        "window_mask": ["INDEX", "MASK", "PASTS", "WindowMask", "list_arguments", "name_arguments"],
    },
)
