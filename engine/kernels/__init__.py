"""Packed low-bit products: one interface, several implementations that agree."""
