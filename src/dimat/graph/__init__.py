"""A model as a graph of operators, and runs of it."""
