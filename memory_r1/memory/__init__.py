"""The memory bank: operations on it, the event log behind it, and retrieval from it.

Import from the modules: this file imports none of them, so that operations and bank come without numpy or FAISS.
"""
