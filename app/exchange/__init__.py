"""Projects to files that other tools read, and back."""
