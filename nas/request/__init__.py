"""What a person may ask of a search, and the request as it is kept on disk."""
