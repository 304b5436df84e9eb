"""What every training shares: processes, samples, steps captured on a GPU, and a state that survives a stop."""
