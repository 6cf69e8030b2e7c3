"""Observation: identifiers, logs and metrics of requests, for the operator.

record    the identifier of a request, and the reason of its refusal
requests  the middleware that measures every request, and logs it
metrics   numbers for Prometheus
"""
