"""Repositories: models as folders of small files and a manifest, whose weights are drawn when they are read.

    REPOSITORIES/owner/name/config.json, tokenizer.json, ...      any small files
    REPOSITORIES/owner/name/manifest.json                         the tensors: the JSON of docs/http.md

revision     names of revisions, and commits: seed, dtype and a digest of the folder
sharding     the tensors of each weight file, and the index of several
repository   one folder: its files at a revision
library      all repositories of a deployment

The doors ``hub`` and ``s3`` serve them.
"""
