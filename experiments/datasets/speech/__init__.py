"""Recordings of speech: corpora as they are distributed, and a synthesiser."""
