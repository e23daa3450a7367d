"""Latencies of a parent on a target: this machine, a kit, a device over ssh, stored profiles."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "format_soundness": ["multiplies_rightly"],
        "format_speeds": ["Product", "Speeds", "load_speeds"],
        "choose_workload": ["choose_default_workload", "choose_workload", "fit_workload"],
        "device": ["Device", "RemoteDevice", "ThisMachine"],
        "effort": ["Effort"],
        "host": ["SECONDS"],
        "host_profile": ["load_host_profile", "measure_ms"],
        "kit": ["Kit", "SECONDS", "check_target"],
        "latency_model": ["load_latency_model"],
        "profile_store": ["fit_device_model", "import_profile"],
        "ssh": ["SshTarget", "Transport", "profile_there"],
        "target_report": ["TargetReport", "report_profile", "report_target"],
        "token_staircase": ["load_steps", "measure_steps"],
    },
)
