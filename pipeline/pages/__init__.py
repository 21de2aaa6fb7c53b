"""The HTML pages that people open: template, tables, numbers."""
