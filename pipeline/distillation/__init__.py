"""Distillation: a student, its teachers and its objective, as one task of the training loop.

Import from the submodules; this file stays empty so that the light ones load without torch.

    job             what stage 3 works on, resolved once (no torch)
    objective       the targets that an objective needs (no torch)
    places          the blocks that an objective compares
    run             distill: from the first weights to the exported student
    token_source    token rows joined with cached targets
    references      a teacher's outputs, replayed or computed
    sides           the teachers of an objective, each with a share
    parts           relations, attention and hidden states
    head            the LM loss and the divergence, from the LM heads
    distiller       student and objective as one module
    distillation_task  distillation as a task of the training loop
    samples         text generated during training
    card            the model card and its lineage
    links           the links of a chain, resolved from a recipe
    interpolated    run_chain: teacher ▶ assistants ▶ student
"""
