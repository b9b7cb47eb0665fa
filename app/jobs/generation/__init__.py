"""What the job that learns from groups needs besides: what it refuses, shows and decides."""
