"""Training data: packed shards, the batch plan, and the loader that reads one in the order of the other."""
