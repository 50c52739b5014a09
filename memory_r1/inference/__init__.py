"""The engine: language models, local or behind a server, and how they read and write fast."""
