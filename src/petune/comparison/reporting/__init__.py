"""The report of a comparison, made from its records alone: figures, charts, plain sentences, and their pages."""
