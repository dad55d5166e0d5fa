"""What happens to scans without an adversary: how they are acquired, and what lies on them."""
