"""Loaders and builders: benchmarks, generated dialogues, users' own files, and the training tuples made of them.

Knows only the ground floor of `memory_r1` (types, errors, metrics, dialogues, memory); a manager that is to rebuild a
bank arrives as an argument. `README.md` here has every source's licence, checksum and counts.
"""
