"""The experiment "separation": a mixture of sounds, and whose is what."""
