"""Labeling: projects, labels, images, and what is said of them."""
