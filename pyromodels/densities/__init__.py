"""Densities of whole signals, smoothed by noise: log p_sigma and its score."""
