"""How a classifier comes by its weights: recipes, augmentation, losses and the loop."""
