"""Latencies of a parent on a target: this machine, a kit, a device over ssh, stored profiles."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "choose_workload": ["default_workload", "fitting", "workload_for"],
        "device": ["Device", "Effort", "RemoteDevice", "ThisMachine"],
        "host": ["SECONDS"],
        "host_profile": ["measured_ms"],
        "kit": ["Kit", "SECONDS", "check_target"],
        "profile_store": ["device_model", "import_profile"],
        "ssh": ["SshTarget", "Transport", "profile_there"],
        "target_report": ["TargetReport", "report_profile", "report_target"],
        "token_staircase": ["known_steps", "measure_steps"],
    },
)
