"""Label Studio: a project as a machine learning backend."""
