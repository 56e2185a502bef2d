"""Layer-wise merging: every layer is fitted to the outputs of its parents."""
