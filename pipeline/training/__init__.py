"""The training loop on DeepSpeed, shared by distillation and fine-tuning.

Import from the submodules; this file stays empty so that the light ones load without torch.

    task            what a loop trains: its loss and validation; DeepSpeed's engine as a type
    loop            train: resume, step, log, validate, save, stop
    order           the rows of each batch, from seed and step
    loader          batches read ahead by threads
    engine          a model under DeepSpeed: built, loaded, gathered
    inference       the same for forward passes only, partitioned over the ranks
    learning_rate   the learning rate of a step
    distributed     the process group, through DeepSpeed (ranks: `pipeline.ranks`)
    checkpoints     checkpoints, complete or absent
    resharding      checkpoints of a different number of ranks
    export          the trained model as a Transformers directory
    watch           the state followed from step to step
    convergence     the best validation, early stopping
    gradients       spikes of the gradient norm
    finite          values that are not finite, and their rows
    validation      the mean of a score over held-out rows
    preemption      signals that ask to save and stop
    meter           means, rates and memory of a log line
    metrics         metrics.jsonl and TensorBoard
    peak            peak FLOP/s of a device
    trace           a profile of a few steps
    compilation     torch.compile of blocks
    configuration   DeepSpeed's JSON, completed by the recipe (no torch)
    identity        the settings that decide a result (no torch)
"""
