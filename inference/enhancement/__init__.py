"""Speech enhancement: the bound, and variational EM with multiplicative updates of the noise."""
