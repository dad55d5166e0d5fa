"""Find out how a medical-image classifier can be fooled, make it harder to fool, and keep watch over it in use."""

__version__ = "0.1.0"
