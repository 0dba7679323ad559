"""Multi-object tracking with MixDVAE: the thesis, chapter 4."""
