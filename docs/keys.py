"""Write the reference of the keys: `python -m docs.keys`."""
