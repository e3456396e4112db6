"""What verbs share that bring utterances through stages: pending work, batches, pools, execution, writing, costs."""
