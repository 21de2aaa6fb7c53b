"""The training loop: policy, steps, checkpoints, metrics, export."""
