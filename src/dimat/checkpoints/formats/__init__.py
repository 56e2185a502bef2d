"""Files and folders that checkpoints, statistics and merges are read from and written to."""
