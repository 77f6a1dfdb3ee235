"""What a run costs, from shapes alone."""
