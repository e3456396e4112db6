"""Metrics, intervals and reports of a table of predictions."""
