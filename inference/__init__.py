"""How a model is fitted; knows models and guides through their protocols only."""

from pyromodels import __version__ as __version__
