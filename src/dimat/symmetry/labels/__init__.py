"""Labels of axes: which units stand where, and what follows from it."""
