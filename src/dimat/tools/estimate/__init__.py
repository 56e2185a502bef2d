"""What a run will cost, before it is run: arithmetic, bytes, memory and time."""
