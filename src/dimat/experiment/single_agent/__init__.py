"""A run of one agent, whose neighbors are runs of their own."""
