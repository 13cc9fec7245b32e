"""The table of measured tokens: measured in one forward pass, stored on disk, read lazily."""
