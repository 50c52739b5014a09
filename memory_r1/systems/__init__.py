"""Every memory system behind one interface (`base.py`); `table.py` lists them by their command-line names."""
