"""Matrix products of a fused loss."""
