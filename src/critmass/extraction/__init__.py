"""A model and a dataset -> features."""
