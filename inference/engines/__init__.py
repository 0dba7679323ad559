"""Inference engines: what moves a guide, a step at a time; `ENGINES` is what specs may name."""

from pyromodels.registry import Registry

ENGINES = Registry(
    "inference engine",
    "pyromodels.inference.engines",
    "pyromodels.inference.mixture",
    module="by_name",
)
"""Name -> engine(model, guide, batch, **options)."""
