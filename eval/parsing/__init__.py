"""Answers as verdicts, by our rules and by those of other harnesses."""
