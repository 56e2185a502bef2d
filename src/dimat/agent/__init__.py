"""An agent in your own training loop."""
