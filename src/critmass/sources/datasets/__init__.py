"""Datasets by name: each file opens one kind of them and gives a `Dataset`."""
