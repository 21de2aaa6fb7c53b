"""The stages of a build, their plan, fingerprints, and what runs them."""
