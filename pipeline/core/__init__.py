"""What every job stands on: recipes, the data contract, files, images, progress, the command line."""
