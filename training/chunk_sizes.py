"""How much is computed at a time: what training does by them, `svco plan` counts by them."""

# Logits that are kept for the backward pass, 0.5 GB in fp32; of more, each part is made again when
# it is needed.
MAX_LOGITS = 2**27
CHUNK_IMAGES = 64  # of which the vision tower makes features to keep
GRADIENT_BUCKET = 32_000_000  # numbers summed over the workers in one call
