"""Training: objectives, batch plan, packed training sets, the step, checkpoints and the training loop."""
