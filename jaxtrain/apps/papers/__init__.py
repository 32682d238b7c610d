"""Papers' claims as experiments that can fail: trials over seeds, shared runs, verdicts, figures, a gallery."""
