"""Toy waveforms and their mixtures: sine, square, saw, triangle."""
