"""The output head of a model in training: found, proved, with adapters, sharded."""
