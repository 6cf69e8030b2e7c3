"""Files: how they come to be whole or not at all, go on where they stopped, and are compared with what they claim."""
