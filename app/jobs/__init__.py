"""Jobs: what is computed in the background, one kind a file in `kinds`."""
