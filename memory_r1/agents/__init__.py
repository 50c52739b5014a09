"""The two agents and the language model under them."""
