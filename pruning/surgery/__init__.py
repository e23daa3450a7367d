"""Taking units out of a model."""
