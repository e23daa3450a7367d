"""Fewer tokens from a block on: who may go, who is ranked how, and the hooks that let a model do it."""
