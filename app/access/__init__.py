"""Who may come in: the API key, and sessions of browsers."""
