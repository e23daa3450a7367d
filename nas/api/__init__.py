"""Searches as a service: an HTTP API over jobs that run elsewhere. Nothing here imports torch."""
