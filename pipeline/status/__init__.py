"""Watching a run: how far each stage is, told from the files of the run and from Slurm where it runs."""
