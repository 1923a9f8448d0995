"""Scores of parts over sizes: measured, kept, and what follows from them."""
