"""Exchange between agents that are processes of their own, and may miss each other."""
