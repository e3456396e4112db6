"""`emoray train`: inputs, the training set, workers, checkpoints, and the version that is registered."""
