"""What petune must know of a base model: where it comes from, what it is made of, which one exactly it is."""
