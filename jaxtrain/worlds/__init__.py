"""Worlds: generated data whose ground truth is a program."""
