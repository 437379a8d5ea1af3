"""From any model and one example input to groups of coupled slices."""
