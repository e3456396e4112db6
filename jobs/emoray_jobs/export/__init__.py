"""`emoray export`: a corpus with its annotations, or scores, in formats of other programs."""
