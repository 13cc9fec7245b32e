"""Which answer lengths a normalization teaches."""
