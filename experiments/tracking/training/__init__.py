"""Training of a prior of boxes, and what it is trained on."""
