"""Closed forms of sources that add up."""
