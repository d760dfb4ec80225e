"""GenFusion's published video generator, of the DynamiCrafter family, on diffusers and transformers.

`pipeline.DynamiCrafterPipeline` is the generator, usable alone; `repairer.DynamiCrafterRepairer` puts it behind the
interface of all repairers; `conversion.convert.convert_checkpoint` makes its folder from a published file.
"""
