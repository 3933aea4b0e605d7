"""The fused training step of the small convolutional encoder, in C."""
