"""The Python side of the batch scripts in slurm/.

- `job_plan`, `jobs`, `shards`, `pretraining`, `finetuning`: which jobs a recipe needs.
- `launch`: the ranks of one node.
- `queue`: what Slurm knows of jobs.
- `records`: what the jobs themselves write down.
"""
