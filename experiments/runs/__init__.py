"""Runs as data: read a spec, build it, run it, compare, show, report."""
