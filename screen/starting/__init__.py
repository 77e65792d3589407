"""Starting: a first configuration for a file of cells."""
