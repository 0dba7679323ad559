"""Metrics: of tracks and of sound, a folder each; of classifiers."""
