"""Observation models p(o | s)."""
