"""Models: the manifest of a torch module, and the code that fills the module with the drawn tensors."""
