"""A classifier that accepts, abstains or rejects, and says why, in one file."""
