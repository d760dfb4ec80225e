"""What the loop is worth: many runs with and without it, and the table of their held-out views."""
