"""Encoder versions: immutable weights, and which of them serves a project."""
