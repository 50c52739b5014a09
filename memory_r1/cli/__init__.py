"""The `memory-r1` command; `memory_r1/cli/app.py` lists its commands."""
