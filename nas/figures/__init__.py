"""Pictures of a search, of redundant tokens and of the patches that a schedule keeps."""
