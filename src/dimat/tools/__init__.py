"""Tools around runs: records, comparisons, reports, estimates, and merges of checkpoints."""
