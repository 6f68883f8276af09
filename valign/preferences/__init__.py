"""Scores in, labels and pairs out: which images are preferred under a principle, and over which."""
