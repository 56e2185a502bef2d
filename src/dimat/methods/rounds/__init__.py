"""Methods that merge when a round begins."""
