"""State, step, loop, checkpoints: knows no model."""
