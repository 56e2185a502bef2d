"""One experiment: settings, run, evaluation and record."""
