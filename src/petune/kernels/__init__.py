"""The hot maths: each function has a plain formula beside its test."""
