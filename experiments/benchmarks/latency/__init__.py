"""The parts of the latency benchmark."""
