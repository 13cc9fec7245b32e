"""Gradients of each task from one backward pass, their Gramian, and how they conflict."""
