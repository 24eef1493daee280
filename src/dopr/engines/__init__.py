"""Strategies inside the loops of other training engines."""
