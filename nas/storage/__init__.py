"""Where things are kept: studies, the cache, result folders, logs and files that others may not read."""

from search_spaces.lazy_exports import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "append_log": ["append"],
        "cache_folder": ["file_words"],
        "disk_errors": ["check_folder", "check_room", "write_failure"],
        "open_storage": ["check_storage"],
        "private_files": ["make_private", "write_private"],
        "redact": ["sqlite_url", "without_password", "without_passwords", "without_secrets"],
        "result_folder": ["REQUEST", "RESULT", "SCHEMA_VERSION", "exclusive_lock", "read_result", "resume_command"],
    },
)
