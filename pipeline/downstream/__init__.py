"""The comparison of models on downstream tasks: fine-tune, predict, score, report.

comparison.py      the finetune section of a recipe, resolved into jobs
job.py             one job: the place and the identity of its artifact
run_jobs.py        every job that is not finished, in one process
tasks.py           the rows of a task as text-to-text examples
task_rows.py       rows of files and of `datasets`
encode.py          examples as token ids
batches.py         token ids as batches of the training loop
fine_tuning.py     training of one job
teacher_signal.py  rows labelled by a fine-tuned teacher, and its logits
predict.py         labels and texts by a model
baselines.py       predictions without a model
task_metrics.py    predictions with references, and their metrics
bootstrap.py       intervals and paired tests
unit_record.py     the files that a unit leaves
results.py         finished units, read back and compared
timing.py          prediction times
"""
