"""Loaders and builders: benchmarks, generated dialogues, users' own files, and training tuples.

Imports only the lowest layers of `memory_r1` (types, errors, metrics, dialogues, memory); a manager that rebuilds a
bank arrives as an argument. `README.md` lists the licence, checksum and counts of every source.
"""
