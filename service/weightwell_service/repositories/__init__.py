"""Repositories: models as folders of small files and a manifest, whose weights are drawn when they are read.

    REPOSITORIES/owner/name/config.json, tokenizer.json, ...      any small files
    REPOSITORIES/owner/name/manifest.json                         the tensors: the JSON of docs/http.md

revision     names of revisions, and commits: seed, dtype and a digest of the folder
sharding     the tensors of each weight file, and the index of several
repository   one folder: its files at a revision
library      all repositories of a deployment

With an upstream Hub, every repository there has a twin here:

twin          the twins: small files that pass through, and weight files that are drawn
twin_laws     how each tensor of a checkpoint is drawn
headers       the tensors of a safetensors file
upstream      requests to the Hub
failures      the error of an upstream
shared_cache  a cache: concurrent requests share one read

The doors ``hub`` and ``s3`` serve them.
"""
