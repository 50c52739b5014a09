"""A model as judge of answers, and the audit of that judge."""
