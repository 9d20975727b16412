"""What a base model is trained for: one file a task, from rows to loss to answers."""
