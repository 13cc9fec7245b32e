"""Sections of the signal report, one file per question."""
