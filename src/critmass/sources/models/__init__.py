"""Models by name: each file loads one kind of them and gives a `Network`."""
