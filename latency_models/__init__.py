"""Workloads, targets, profiles, measuring exported files and predicting milliseconds."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "block_shape": ["AttentionShape", "BlockShape", "MlpShape"],
        "calibrated": ["CalibratedModel", "PairedModel"],
        "datasheet_model": ["COMPUTE_EFFICIENCY", "DataSheetModel", "MEMORY_EFFICIENCY", "UNCERTAINTY"],
        "energy_model": ["EnergyModel", "has_energy", "wh_per_1000"],
        "footprint": ["Memory", "cached_bytes_per_token", "memory"],
        "measurement": ["Measurement", "least_samples", "quantile_bounds"],
        "measurement_design": ["design", "few_schedules"],
        "model": ["LatencyModel", "Prediction"],
        "profile": ["Profile", "Record"],
        "rates": ["Rate"],
        "run_plan": ["LEAST_ROUNDS", "Measured", "PORTABLE", "SESSIONS", "measure_files", "run_folder", "write_folder"],
        "runner.failure": ["MeasuringFailed"],
        "runner.measure": ["SENTINEL_EVERY", "measure"],
        "runner.plan": ["ENTRY", "MODELS", "PLAN", "PROFILE"],
        "runner.process": ["ERROR"],
        "runtime_ort": ["PRECISION", "default_threads", "environment", "open_session"],
        "shape": ["ModelShape"],
        "staircase": ["ACCELERATOR_TILE", "CPU_TILE", "Staircase", "measured_staircase"],
        "targets": ["HOST", "Target", "aliases", "all_targets", "find_target"],
        "terms": ["Terms"],
        "validation": ["Validation", "validate"],
        "work": ["count_flops", "stem_work"],
        "workload": ["Phase", "Workload"],
    },
)
