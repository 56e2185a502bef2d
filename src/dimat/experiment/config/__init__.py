"""Settings of a run: what there is, in which range, and how they are read."""
