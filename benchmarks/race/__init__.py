"""A race of petune against another trainer: the same work, fresh processes, interleaved."""
