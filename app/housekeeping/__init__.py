"""What is done beside all requests: files and rows that nobody needs any more go."""
