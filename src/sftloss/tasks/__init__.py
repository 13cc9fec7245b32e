"""Weights for the tasks of one training run."""
