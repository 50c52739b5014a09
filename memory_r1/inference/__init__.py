"""The engine: language models, local or behind a server, with fast prefill and decoding."""
