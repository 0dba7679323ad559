"""What noise is like beside speech: laws of n_t ~ N_c(0, v_n)."""
