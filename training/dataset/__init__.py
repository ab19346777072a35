"""Builds a data set of sketches and captions from films and pictures, as AnimeSketch-1818 was."""
