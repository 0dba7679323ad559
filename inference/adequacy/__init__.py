"""May a posterior be trusted? Numbers, simulations, a verdict, a page."""
