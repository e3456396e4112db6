"""Scoring: a model version's folder, and the scorer that opens it."""
