"""What you ask a cluster to do: annotate, train, evaluate, promote, score; and the command line `emoray`."""
