"""Compute an evaluation's numbers: metrics, intervals, comparisons and diagnoses."""
