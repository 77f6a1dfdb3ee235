"""What the batch scripts in slurm/ leave to Python: planning the jobs of a recipe, starting the ranks of a node, asking Slurm."""
