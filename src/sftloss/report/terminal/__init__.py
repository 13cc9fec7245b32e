"""Documents and token masks on a terminal."""
