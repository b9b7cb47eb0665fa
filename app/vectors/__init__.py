"""Embedding matrices of projects: a cache of SQL, in memory and in files."""
