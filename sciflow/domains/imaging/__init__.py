"""Images and what was measured of them."""
