"""Photos to what the networks see."""
