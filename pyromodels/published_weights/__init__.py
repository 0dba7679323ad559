"""The authors' weights: which model they are, and every tensor in place."""
