"""Where things are kept: studies, the cache, result folders, logs and files that others may not read."""

from search_spaces.lazy_exports import export_lazily

__getattr__, __all__ = export_lazily(
    __name__,
    {
        "append_log": ["append"],
        "cache_folder": ["format_for_file", "get_cache_folder"],
        "disk_errors": ["check_folder", "check_free_space", "write_failure"],
        "open_storage": ["check_storage"],
        "private_files": ["make_private", "write_private"],
        "redact": ["build_sqlite_url", "remove_password", "remove_passwords", "remove_secrets"],
        "result_folder": ["REQUEST", "RESULT", "SCHEMA_VERSION", "lock_exclusively", "read_result", "resume_command"],
    },
)
