"""Sweeps: a search for every model, target, budget and seed, on Ray Tune, and what is right for each device."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "cell": ["model_name", "pilots_of"],
        "request": ["Sweep", "new_sweep", "parse_list", "parse_seed"],
        "result": ["FIGURE", "FILE", "SweepResult", "deliver"],
        "row": ["Model", "Row"],
        "run": ["run_sweep"],
    },
)
