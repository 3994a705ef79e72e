"""The hardware operators: a file for each, its SystemVerilog beside it."""
