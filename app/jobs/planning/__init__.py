"""Before a job is started: policies of augmentation, what they look like, what methods cost."""
