"""What is done with models: data, metrics, the papers' tables and the command line."""
