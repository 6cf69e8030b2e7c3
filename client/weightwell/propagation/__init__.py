"""How signals and gradients pass through a network: measurements of torch modules, and their tables."""
