"""Methods side by side: what is compared, the trials, and the report of what they showed."""
