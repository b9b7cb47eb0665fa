"""Tools that people label with already, and what they send and expect."""
