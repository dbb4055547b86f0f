"""Data, losses and the loop that trains every network."""
