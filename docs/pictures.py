"""Draw the pictures of the method from the demo: `python -m docs.pictures`."""
