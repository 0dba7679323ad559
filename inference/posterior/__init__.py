"""A posterior as one object, whatever fitted it, and its file for ArviZ."""
