"""Architectures that no library has, as plain `nn.Module` code, and what recipes put around those of libraries.

Modules here import torch at their top: recipes import them inside `network`.
"""
