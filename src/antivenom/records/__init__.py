"""What was seen, on disk, and every figure that follows from it; no torch."""
