"""Faults on purpose: commands are killed, files damaged, and what comes out is compared with an undisturbed run."""
