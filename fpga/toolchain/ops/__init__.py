"""Hardware operators of our own: one file each."""
