"""`emoray annotate`: utterances → stage tables, its plan, its summary and the tidying of its tables."""
