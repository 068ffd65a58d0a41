"""The doctor's rules, one file each: `(history, config) → finding or None`. A rule looks at figures and at nothing else."""
