"""The cost of a run, from shapes alone: `miniend plan`.

plan.py         make a plan, and print it
figures.py      the plan itself: what `miniend plan --json` prints
plan_table.py   a plan as tables
byte_text.py    bytes and counts for people
assumptions.py  facts that a plan cannot find out
gpus.py         memory and speed of devices
chain.py        the models and links a recipe will make
settings.py     what the figures need of the recipe
corpus_rows.py  the rows of the corpus
cache_bytes.py  bytes of a cache, for each kind of target
estimate.py     operations, hours and memory of one link
step.py         memory of one micro batch, counted on the meta device
live.py         bytes of live tensors
memory.py       memory of one rank under DeepSpeed
advice.py       the recommended target, and what does not fit
"""
