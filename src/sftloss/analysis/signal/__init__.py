"""Where the training signal goes: findings and sections made from a measured table."""
