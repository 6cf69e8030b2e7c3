"""Weightwell in libraries of torch. These modules import torch, which the package itself does not.

dcp     torch.distributed.checkpoint: a storage reader whose checkpoint is a manifest
"""
