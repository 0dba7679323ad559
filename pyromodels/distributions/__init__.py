"""Distributions that Pyro has not: paths, chains, and pairs of them."""
