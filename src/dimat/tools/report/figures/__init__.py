"""Figures of a report as plain values that plotly draws, made from values: no file is read."""
