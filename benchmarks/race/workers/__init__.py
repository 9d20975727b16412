"""What runs in a process of its own: one measurement, from the first import to the last byte."""
