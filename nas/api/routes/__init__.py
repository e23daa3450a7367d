"""The routes of the API, by who uses them."""

__all__: list[str] = []
