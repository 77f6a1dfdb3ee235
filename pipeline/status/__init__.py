"""Watch a run: how far each stage is, from the files of the run, and from Slurm where it runs."""
