"""The arithmetic of changes: by how much an edit changes a cell's activations."""
