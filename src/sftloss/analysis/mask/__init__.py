"""The mask audit behind `sftloss inspect`."""
