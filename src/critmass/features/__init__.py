"""The whole: a layer's activations with labels; made from arrays, files or a store."""
