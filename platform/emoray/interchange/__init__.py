"""Formats of other programs: audformat databases, EmotionML 1.0, MSP-Podcast submissions, Parquet.

Every writer takes a local path and writes rows of an utterances table or of a table's scores (`label.Label`); what a
format cannot hold is counted in a `label.ExportStats`. `atomic_output` moves a finished file to its place, whole.
"""
