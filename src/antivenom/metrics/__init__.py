"""Figures as pure functions of arrays: they know no model. The unit is the decision: one per image, or one per finding."""
