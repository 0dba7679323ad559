"""Labelled sequences: simulated sources of known densities, phones of speech."""
