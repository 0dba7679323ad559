"""Inference engines: what moves a guide, a step at a time; `STEPPERS` is what specs may name."""

from pyromodels.registry import Registry

STEPPERS = Registry("inference engine", "pyromodels.inference.engines")
"""Name -> engine(model, guide, batch, **options)."""
