"""Images from files: readers, splits that keep patients apart, one table of sets, and phantoms."""
