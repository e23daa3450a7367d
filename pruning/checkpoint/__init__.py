"""Models on disk: hub and local folders are read, pruned models are written and read back."""

from pruning.checkpoint.auto_classes import register
from pruning.checkpoint.load_save import copy_companions, is_pruned, load, load_parent, load_to_compute, save

__all__ = ["copy_companions", "is_pruned", "load", "load_parent", "load_to_compute", "register", "save"]
