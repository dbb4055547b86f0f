"""What can be trained: one module for each part of the model."""
