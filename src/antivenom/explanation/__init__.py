"""Where a classifier looks: maps over the image, pictures of them, and figures for what pictures only show."""
