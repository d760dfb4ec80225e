"""A finished run as one HTML file: the scene in a viewer, its rounds, figures and settings (`gf-report`)."""
