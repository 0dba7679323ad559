"""What must run on a device as on the CPU: every family and every engine, each in a small problem.

A case takes a device, makes its problem from a seed on the CPU, moves it there, steps, and returns
the numbers it came to: tensors, floats, and lists of them. `pyromodels bench gpu` runs the cases on
a GPU, the tests on a device that only pretends to be one.
"""

from pyromodels.experiments.demonstrations.device_cases import mixtures, sequences, sounds
from pyromodels.experiments.demonstrations.device_cases.registry import CASES, SLOW, run_case

__all__ = ["CASES", "SLOW", "mixtures", "run_case", "sequences", "sounds"]
