"""Figures of latents, priors and comparisons, drawn without global matplotlib state."""
