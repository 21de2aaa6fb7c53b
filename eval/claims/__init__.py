"""What an answer claims, and whether the image bears it out."""
