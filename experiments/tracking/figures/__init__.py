"""Figures of a run: trajectories, responsibilities, bounds."""
