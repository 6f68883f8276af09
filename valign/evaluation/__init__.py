"""Scores in, numbers out: bias, toxicity and quality with intervals, and a page that shows them."""
