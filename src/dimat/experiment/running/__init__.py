"""Running all agents of a run: pre-training, rounds, controls."""
