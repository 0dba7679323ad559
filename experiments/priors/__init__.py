"""Experiments with densities of signals: priors of separation by sampling."""
