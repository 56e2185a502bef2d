"""Callbacks for the trainers that people use: an agent in each, in three lines.

A module is imported by who uses its trainer: :mod:`dimat.integrations.transformers`,
:mod:`dimat.integrations.lightning`.
"""
