"""Pairs made of photographs by edits that are true by construction."""
