"""Manifests: CSV, JSON lines, Parquet and lhotse cuts, read into the utterances table."""
