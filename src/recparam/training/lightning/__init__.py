"""The part of training that runs under a Lightning Trainer."""
