"""What agents are tested by, and what an observer of all sees."""
