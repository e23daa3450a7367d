"""A search from the request to the result folder: prepare, search, certify, write the results."""
