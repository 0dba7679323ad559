"""The tables and figures of the thesis, and how rows of figures are printed."""
