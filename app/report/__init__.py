"""How good a project is, which labels are wrong, what more of them would bring."""
