"""The door without a server: the engine draws in this process.

    weightwell.local()                  the CPU, all its threads
    Client("local:cuda:0?threads=4")    the same as an address, such as that in $WEIGHTWELL_URL

address     the address: a device and a number of threads
engines     an engine for each device, and the threads that draw
specs       requests as specs of the engine
plans       plans of files
answers     the JSON documents of a server
drawing     files drawn into their destinations by all threads
refusals    the engine's errors as those of the client
door        the doors of both clients
"""
