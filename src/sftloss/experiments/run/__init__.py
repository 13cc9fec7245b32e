"""Arms trained and evaluated, one process or several."""
