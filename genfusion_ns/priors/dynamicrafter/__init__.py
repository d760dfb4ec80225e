"""GenFusion's published video generator, of the DynamiCrafter family, on diffusers and transformers."""
