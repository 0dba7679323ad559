"""Sounds that are mixed, and the sounds of one kind that priors learn from."""
