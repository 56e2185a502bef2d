"""``dimat compare``: several methods over a grid of settings and several seeds."""
