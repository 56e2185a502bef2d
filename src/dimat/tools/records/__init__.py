"""Records of runs, read from disk."""
