"""MVC pairs, reference table and vision features as the trainer reads them."""
