"""Training: one loop, its recipe, its checkpoints."""
