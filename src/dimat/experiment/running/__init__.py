"""All agents of a run: pre-training, rounds, controls."""
