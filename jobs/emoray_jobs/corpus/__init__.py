"""`emoray corpus`: build or import a corpus, look at it, list what there is."""
