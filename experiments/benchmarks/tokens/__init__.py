"""Parts of the token-reduction benchmark."""
