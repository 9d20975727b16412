"""The places of a transformer where an adapter may plug in, and the routing of rows to adapters."""
