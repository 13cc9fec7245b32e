"""Elementwise work on a block of logits: plain PyTorch on any device, Triton kernels on a GPU."""
