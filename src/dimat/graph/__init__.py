"""The operator graph of a model: its export, and runs of it node by node."""
