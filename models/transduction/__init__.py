"""Transduction: prototypes that learn from the whole pool as well, and whether they are better."""
