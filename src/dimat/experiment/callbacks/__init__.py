"""Callbacks: objects that receive the measurements of a run as they are made."""
