"""Statistics, intervals and wording that all analyses share."""
