"""Training: one loop on minibatches, options, checkpoints, precision, processes."""
