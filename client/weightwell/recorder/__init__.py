"""Recording: the laws that a model's own code gives its parameters, read by running that code.

On meta tensors nothing is computed, and every ``normal_`` or ``zero_`` that touches a parameter is its law.
``mode`` sees torch's operators, ``functions`` torch's initializers; ``storages`` keep what was written where, ``laws``
what arithmetic makes of a law. ``parameters`` turns that into the fields of a manifest, ``evaluation`` and ``numbers``
compute what is no law. ``initializers`` finds a model's own, and ``twins`` runs them without a change to the model.
"""
