"""Where studies are kept: a file on one machine, a server for a cluster, a log on a shared file system."""

from nas.storage.opening import check_storage, open_storage

__all__ = ["check_storage", "open_storage"]
