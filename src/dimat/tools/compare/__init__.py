"""Several methods over a grid of settings and several seeds: ``dimat compare``."""
