"""Signals through a deep stack of layers: measured with drawn weights, and predicted by mean-field theory.

theory       what theory predicts; needs no torch
measurement  what torch computes with the weights that the engine draws; the only module here that imports torch
answer       the answer of ``/signal``
"""
