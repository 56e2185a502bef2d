"""The records of runs, read from their folders."""
