"""Proof of a symmetry by execution."""
