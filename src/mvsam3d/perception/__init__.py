"""What other models say about a photo."""
