"""Sweeps: a search for every model, target, budget and seed, on Ray Tune, and what is right for each device."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "cell": ["list_pilots", "shorten_model_name"],
        "request": ["Sweep", "create_sweep", "parse_list", "parse_seed"],
        "result": ["FIGURE", "FILE", "SweepResult", "deliver"],
        "row": ["Model", "Row"],
        "run": ["run_sweep"],
    },
)
