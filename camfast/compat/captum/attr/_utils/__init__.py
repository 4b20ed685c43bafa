"""What attributions have in common."""
