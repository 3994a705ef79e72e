"""The folding that fits a board, its schedule and what it takes."""
