"""TripoSR: an object's radiance field, on three planes, from one image (Tochilkin et al. 2024), and its mesh.

Parts come from libraries where these have them: the image tokenizer from transformers, the blocks of the backbone from
diffusers. Names of the weights are those of the published files, whatever the releases of the libraries call them.
"""
