"""Latencies of a parent on a target: this machine, a kit, a device over ssh, stored profiles."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "device": ["Device", "Effort", "RemoteDevice", "ThisMachine"],
        "host": ["SECONDS"],
        "kit": ["Kit", "SECONDS", "check_target"],
        "latency_model": ["ParentExport", "default_workload", "fitting", "host_profile", "measured_ms", "workload_for"],
        "profile_store": ["device_model", "import_profile"],
        "ssh": ["SshTarget", "Transport", "profile_there"],
        "target_report": ["TargetReport", "report_profile", "report_target"],
        "token_staircase": ["known_steps", "measure_steps"],
    },
)
