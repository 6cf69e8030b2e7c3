"""The door without a server: the engine draws in this process.

    weightwell.local()                  the CPU, all its threads
    Client("local:cuda:0?threads=4")    the same as an address, such as that in $WEIGHTWELL_URL

address     the address: a device and a number of threads
engines     an engine for each device, and the threads that draw
answers     the answers of a server: JSON documents, and plans of files
drawing     files drawn into their destinations by all threads
refusals    the engine's errors as those of the client
door        the doors of both clients
"""
