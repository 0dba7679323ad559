"""How a model is fitted; knows models and guides through their protocols only."""
