"""Metrics, intervals and reports that judge a table of predictions."""
