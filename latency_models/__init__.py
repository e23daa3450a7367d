"""Workloads, targets, profiles, measuring exported files and predicting milliseconds."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "block_shape": ["AttentionShape", "BlockShape", "CrossAttentionShape", "MlpShape"],
        "calibrated": ["CalibratedModel", "PairedModel"],
        "datasheet_model": ["COMPUTE_EFFICIENCY", "DataSheetModel", "MEMORY_EFFICIENCY", "UNCERTAINTY"],
        "energy_model": ["EnergyModel", "convert_to_wh_per_1000", "has_energy"],
        "footprint": ["Memory", "compute_memory", "count_cached_bytes_per_token"],
        "marginal": ["compute_marginal_values"],
        "measurement": ["Measurement", "compute_min_samples", "compute_quantile_bounds"],
        "measurement_design": ["choose_schedules", "design_measurements"],
        "model": ["LatencyModel", "Prediction"],
        "profile": ["Profile", "Record"],
        "rates": ["Rate", "compute_rates"],
        "run_plan": ["MIN_ROUNDS", "Measured", "PORTABLE", "SESSIONS", "measure_files", "run_folder", "write_folder"],
        "runner.failure": ["MeasuringFailed"],
        "runner.measure": ["SENTINEL_EVERY", "measure"],
        "runner.plan": ["ENTRY", "MODELS", "PLAN", "PROFILE"],
        "runner.process": ["ERROR"],
        "runtime_ort": ["PRECISION", "count_default_threads", "open_session", "read_environment"],
        "shape": ["ModelShape"],
        "staircase": ["ACCELERATOR_TILE", "CPU_TILE", "Staircase", "build_measured_staircase"],
        "targets": ["DEFAULT_PRECISION", "HOST", "Target", "find_target", "list_aliases", "list_targets"],
        "terms": ["Terms"],
        "validation": ["Validation", "validate"],
        "work": ["compute_changed_work", "compute_stem_work", "count_flops"],
        "workload": ["Phase", "Workload"],
    },
)
