"""p(o | w, s) of MixDVAE: laws of observations given their sources, and the detector's part."""
