"""Where evaluations are computed: in this process, or by the workers of a Ray cluster."""
