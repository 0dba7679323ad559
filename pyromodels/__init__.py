"""What a model is: deep generative models of dynamical signals, as Pyro programs."""

from importlib.metadata import version
from pathlib import Path

__version__ = version("pyromodels")

# In a checkout `pyromodels.inference` and `pyromodels.experiments` are the folders beside this one.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "experiments").is_dir():
    __path__.append(str(_root))
