"""Inference: many requests, one forward pass."""
