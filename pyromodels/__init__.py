"""What a model is: deep generative models of dynamical signals, as Pyro programs."""

from importlib.metadata import version

__version__ = version("pyromodels")
