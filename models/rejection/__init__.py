"""When not to answer: novelty, images of no class, sets of classes."""
