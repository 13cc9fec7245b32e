"""Batches: collated, filled up over ranks, and read as flat targets, weights and segments."""
