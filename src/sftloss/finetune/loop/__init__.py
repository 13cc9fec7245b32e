"""The training loop of a fine-tuning run: the Trainer, its callbacks, evaluation by group, stopping."""
