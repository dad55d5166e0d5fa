"""Scores of how unlike clean images an image looks to a classifier, fitted on clean images alone."""
