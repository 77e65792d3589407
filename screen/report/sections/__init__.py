"""Sections of the page that stand still: what was asked for beside the ranking, in words and small tables."""
