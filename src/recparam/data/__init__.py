"""Data: generators and pairs of observations."""
