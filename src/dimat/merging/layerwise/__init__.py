"""Merging layer by layer: each one fitted to what its parents put out."""
