"""Unconditional generation of speech, judged by a distance to recordings."""
