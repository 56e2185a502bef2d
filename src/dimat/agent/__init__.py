"""``dimat.Agent``: an agent in your own training loop."""
