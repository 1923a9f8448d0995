"""Files: whole or absent, checked when read; canonical JSON and the ids made of it."""
