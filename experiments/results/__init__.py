"""Pages of measurements in `docs/results`, each written by one command from what its runs found."""
