"""Numbers of an evaluation: metrics, intervals, comparisons, what went wrong."""
