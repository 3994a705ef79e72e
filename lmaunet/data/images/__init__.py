"""One image in, by its bytes; one mask out, on the image's own grid."""
