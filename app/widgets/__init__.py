"""The widgets, one concept a file."""
