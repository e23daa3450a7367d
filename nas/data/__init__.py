"""Calibration, validation and test data: read, split by source project, cleaned of near-duplicates."""

from nas.data.dataset import Dataset, Split, load_dataset

__all__ = ["Dataset", "Split", "load_dataset"]
