"""Models: what a torch module asks for, told as a manifest, and how it is filled with what comes."""
