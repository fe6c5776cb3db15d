"""What keeps one client, or all of them together, from taking more than there is."""
