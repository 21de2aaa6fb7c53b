"""The losses, as tables of terms."""
