"""The published claims about tuning methods, checked at a small scale: parts, their records, and what they say."""
