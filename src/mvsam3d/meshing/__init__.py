"""From the decoder's field to a textured mesh."""
