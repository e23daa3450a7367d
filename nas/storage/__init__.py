"""Where things are kept: studies, the cache, result folders, logs and files that others may not read."""
