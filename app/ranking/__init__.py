"""What to label next: rank the pool, hand images out, look for similar ones."""
