"""Transfers: bodies on their way to their places, over several connections and as many attempts as that takes."""
