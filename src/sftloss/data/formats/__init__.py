"""Raw rows of any supported shape to records."""
