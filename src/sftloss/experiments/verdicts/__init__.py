"""Differences between arms with intervals, and what they support."""
