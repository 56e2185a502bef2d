"""Local training, and the round: what one agent does."""
