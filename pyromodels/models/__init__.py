"""Assembled Pyro programs."""
