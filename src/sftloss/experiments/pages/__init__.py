"""Sections of a comparison's report."""
