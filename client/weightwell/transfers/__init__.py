"""Transfers: bodies on their way to their destinations, over one or several connections, with retries."""
