"""Two models side by side: which queries the small one answers as its parent would."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "answers": ["Answers", "compare_answers"],
        "curve": ["Point", "compute_curve", "compute_point", "find_threshold"],
        "routing": ["Costs", "Routing", "build_routing"],
    },
)
