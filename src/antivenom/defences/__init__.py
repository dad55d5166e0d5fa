"""What is put around a classifier to make it harder to fool."""
