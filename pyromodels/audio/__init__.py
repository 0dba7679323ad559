"""Spectrograms and back."""
