"""What a project's labels say of an image."""
