"""Parts of a layer: a basis and its prefixes."""
