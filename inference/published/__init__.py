"""MixDVAE inference as published, frame by frame, computed along anti-diagonals."""
