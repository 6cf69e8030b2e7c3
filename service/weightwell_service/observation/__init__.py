"""Observation: what an operator sees of the requests.

record    the identifier of a request, and the reason of its refusal
requests  the middleware that measures every request, and logs it
metrics   numbers for Prometheus
"""
