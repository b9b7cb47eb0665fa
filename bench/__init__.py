"""Measurements: commands that print figures, compare peers and keep results."""
