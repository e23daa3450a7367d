"""The parent model: how it is found and read, and the sizes of its blocks."""
