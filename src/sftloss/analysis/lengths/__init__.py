"""Predicted output lengths under each normalization."""
