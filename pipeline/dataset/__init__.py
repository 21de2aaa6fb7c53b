"""A finished MVC folder as others use it: validated, exported."""
