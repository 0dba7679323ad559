"""Engines: what steps a guide, and for how long."""
