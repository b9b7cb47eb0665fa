"""What travels: requests and answers, a module a resource."""
