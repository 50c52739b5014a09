"""Measuring memory systems: playing benchmarks, statistics, result files and reports."""
