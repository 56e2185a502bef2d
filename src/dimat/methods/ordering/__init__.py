"""One unit order for all agents: how they come into it."""
