"""Settings of a run: their types and ranges, and how they are read."""
