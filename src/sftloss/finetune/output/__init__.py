"""The folder of a fine-tuning run: checkpoints, files, provenance."""
