"""Text to tensors: files, layouts, templates, encoding, batches and the data report."""
