"""The command line: main.py wires, one file for each command."""
