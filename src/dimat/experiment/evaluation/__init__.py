"""Evaluation of the agents, and diagnostics of all of them together."""
