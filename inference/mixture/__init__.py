"""MixDVAE's algebra in closed form: bound, updates, moments, filter, starts."""
