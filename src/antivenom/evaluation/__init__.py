"""What is run, how, and whether it can be believed: protocols, their runs to records, and suspicions."""
