"""Training: objectives, batch plan, packed training sets, the step, checkpoints and the loop around them."""
