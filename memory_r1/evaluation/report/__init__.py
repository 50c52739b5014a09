"""The pages and figures of an evaluation."""
