"""The service: quality, search, export, tracking and the command line."""
