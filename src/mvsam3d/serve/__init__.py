"""A reconstruction in the browser."""
