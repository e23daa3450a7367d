"""Measuring on the device itself: only Python 3.9, NumPy and a runtime; nothing else of `nas` is imported."""
