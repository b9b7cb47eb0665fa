"""Files: blobs by their SHA-256, archives within limits, addresses that others name."""
