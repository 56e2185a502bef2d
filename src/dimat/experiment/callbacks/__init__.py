"""Who is told what a run measures, as it is measured."""
