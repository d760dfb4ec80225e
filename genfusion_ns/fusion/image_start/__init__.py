"""One image as the start of a scene: its object, made by a network, becomes a capture that the loop continues from."""
