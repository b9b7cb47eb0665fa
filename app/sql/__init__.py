"""SQL: sessions, the schema, and what is looked up again and again."""
