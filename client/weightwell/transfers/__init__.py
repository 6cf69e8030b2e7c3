"""Transfers: download of response bodies over one or several connections, with retries."""
