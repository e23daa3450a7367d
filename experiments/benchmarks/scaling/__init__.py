"""The parts of `experiments/benchmarks/scale.py`."""
