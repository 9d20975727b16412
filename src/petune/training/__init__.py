"""How adapters learn: one loop for every method."""
