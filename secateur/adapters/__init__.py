"""Methods in other people's training loops: one module a host, imported by name where the host is installed.

>>> from secateur.adapters.lightning import SecateurCallback
>>> from secateur.adapters.transformers import SecateurCallback, SecateurTrainer
"""
