"""The `pyromodels` command: its words, and what it says of the machine."""
