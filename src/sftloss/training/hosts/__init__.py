"""Trainers that run our losses: HF Trainer and TRL, Axolotl, ms-swift."""
