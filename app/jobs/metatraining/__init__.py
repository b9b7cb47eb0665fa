"""The job that learns across labels: what it learns from, and how it tells of it."""
