"""A reconstruction and what was gathered on the way -> files to look into: weights, attention, visibility, scenes."""
