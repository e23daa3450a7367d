"""Exports that several files of tests look at."""

from exported_parents import export_parent

__all__ = ["export_parent"]
