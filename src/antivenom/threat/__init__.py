"""What the adversary wants and may do."""
