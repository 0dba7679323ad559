"""Speech: training of dynamical VAEs, analysis-resynthesis, generation, swapping speakers."""
