"""Sweeps: a search for every model, target, budget and seed, on Ray Tune, and what is right for each device."""
