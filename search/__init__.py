"""What chooses a plan: per-layer sensitivity and the layers to leave in float."""
