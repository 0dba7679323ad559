"""Data sets, one folder a kind; `DATASETS` is what `[data]` of a spec may name."""

from pyromodels.registry import Registry

DATASETS = Registry("data set", "pyromodels.experiments.datasets")
