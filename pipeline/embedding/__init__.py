"""CLIP and DINOv2 embeddings of images and texts, and their cache."""
