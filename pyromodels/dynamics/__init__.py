"""Priors over the trajectory of one source, one model a file."""
