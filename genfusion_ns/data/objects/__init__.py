"""Objects without a background, to train on: generated ones, and captures in Blender's format."""
