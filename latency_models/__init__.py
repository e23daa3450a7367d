"""Workloads, targets, profiles, measuring exported files and predicting milliseconds."""
