"""Images and rows of a build between its stages."""
