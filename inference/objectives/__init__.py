"""Bounds on the evidence, as modules that stock optimisers train."""
