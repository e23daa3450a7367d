"""How redundant the parts of a model are, and the tokens that flow through them."""
