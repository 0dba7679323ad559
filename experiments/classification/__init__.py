"""Classification of labelled sequences by the density of each class."""
