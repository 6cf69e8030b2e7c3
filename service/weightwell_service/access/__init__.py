"""Access: who may ask this server, and how much.

clients       who sends a request: a token, or an address
costs         what one request may cost
tokens        the file of tokens, which has their digests and their limits
signatures    addresses that open one file until a time, without a token
usage         what each client has used: open answers, and bytes today
shared_usage  the same, for several processes
guard         the middleware that lets requests in, or refuses them
"""
