"""The structure of a model: its blocks, what each adds to the residual stream, its positions."""
