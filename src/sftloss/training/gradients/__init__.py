"""Gradient of each example of a batch: norms from one backward pass, and how much each one helps an update."""
