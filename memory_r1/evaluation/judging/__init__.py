"""A model that judges answers, and the audit of that judge."""
