"""The delta engine: computes by how much an edit changes a cell, not the edited cell."""
