"""Files: adapter folders the ecosystem reads, their manifest, and writing that a crash cannot tear."""
