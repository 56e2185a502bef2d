"""Labels of axes by units, the facts that tie units together, and their solution."""
