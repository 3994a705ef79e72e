"""The layouts of folders that are understood, a file for each."""
