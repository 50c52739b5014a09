"""Evaluate memory systems: play benchmarks, compute statistics, write results and reports."""
