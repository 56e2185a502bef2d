"""The record of a run on disk: run folder, metrics, checkpoints, summary."""
