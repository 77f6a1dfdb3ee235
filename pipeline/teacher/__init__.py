"""The teacher: its targets for the training tokens, cached once and read back during distillation.

Import from the submodules; this file stays empty so that the light ones load without torch.

    job             what stage 2 works on, resolved once (no torch)
    cuts            the block of each stack whose input is cached (no torch)
    caching         cache_teacher: targets for each token shard, then the tail
    vocabulary      the check that a model knows the tokens of a run
    cache_size      the disk space of a cache
    loaded          a loaded teacher: the protocol, and a whole one
    partitioned     a teacher partitioned over the ranks
    model_inputs    token rows as inputs of a model
    capture         a forward pass that records the states at the cuts
    states          hidden states as columns
    quantise        hidden states as int8
    sparse          sampled and top-k targets as columns
    sampling        draws from the teacher's distribution
    codec           the compact code of sampled targets
    topk            the k most probable tokens
    background_writing  shards written in the background
    tail            the blocks after the cut, and their replay
    fidelity        how well a replay matches the teacher
    cached_targets  cached targets, read and checked against their labels
"""
