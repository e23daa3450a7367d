"""Measuring on the device itself: Python 3.9, NumPy and a runtime are all it needs; nothing else of `nas` is imported."""
