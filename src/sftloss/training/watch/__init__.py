"""What is observed while training: running sums, spikes, the rows behind them."""
