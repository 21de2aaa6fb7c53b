"""What every job stands on: recipes, the data contract, files, images, Ray, the terminal."""
