"""The routes of the API, by who uses them."""
