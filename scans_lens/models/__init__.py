"""Real chat models: by a short name from a hub or the package index, or from a GGUF file of the user's own."""
