"""Task factors in training."""
