"""What embeddings tell without a head: clusters, directions, near-duplicates, alignment."""
