"""Plate names and dimensions, stated once for every Pyro program of the library.

Batch dimensions are counted from the right, as Pyro does. The source plate and the observation
plate share dimension -1 because no site lives in both.
"""

import pyro

MAX_PLATE_NESTING = 3
BATCH = "batch"
"""Name of the plate of sequences: bounds can be had for each of its indices."""


def batch_plate(size: int) -> pyro.plate:
    """Independent sequences, dimension -3."""
    return pyro.plate(BATCH, size, dim=-3)


def frame_plate(size: int) -> pyro.plate:
    """Frames, dimension -2; independent given the trajectories."""
    return pyro.plate("frame", size, dim=-2)


def source_plate(size: int) -> pyro.plate:
    """Sources, dimension -1."""
    return pyro.plate("source", size, dim=-1)


def observation_plate(size: int) -> pyro.plate:
    """Observation slots of one frame, dimension -1."""
    return pyro.plate("observation", size, dim=-1)
