"""A board: what it has, its kinds of memory, and what a part of a design takes of it."""
