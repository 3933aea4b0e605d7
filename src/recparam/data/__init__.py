"""Data: recordings and the files they come from, pairs of their rows, batches, generators."""
