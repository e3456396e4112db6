"""`emoray protocol`: trials over the folds and seeds of a corpus, and their report."""
