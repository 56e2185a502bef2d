"""Tables as data sets: CSV, JSON Lines and Parquet files, and what `datasets` loads."""

from dimat.data.tables.dataset import of_tables
from dimat.data.tables.hub import TEST_SPLITS, hub_tables
from dimat.data.tables.sources import csv, jsonl, parquet

__all__ = ["TEST_SPLITS", "csv", "hub_tables", "jsonl", "of_tables", "parquet"]
