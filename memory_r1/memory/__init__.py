"""The memory bank, its operations, event log and retrieval. This file imports nothing: banks need no numpy or FAISS."""
