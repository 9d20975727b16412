"""What methods are made to learn: a base, rows of real text, and the metric that tells."""
