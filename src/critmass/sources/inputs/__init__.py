"""What networks are fed: images, texts, and how they are prepared."""
