"""Invertible maps of frames."""
