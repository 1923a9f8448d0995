"""Numbers: matrices by blocks of rows, devices, random streams, moments, bases."""
