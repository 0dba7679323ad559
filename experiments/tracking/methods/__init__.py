"""Trackers by name: the tuned one with each prior, the published one, baselines."""
