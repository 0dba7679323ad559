"""Speech enhancement: the bound, and EM with multiplicative updates of the noise."""
