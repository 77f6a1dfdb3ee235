"""Objectives of a student, as pure tensor functions: no I/O, no deepspeed, no transformers.

Import from the submodules. This file stays empty so that `presets`, `weight_schedules` and
`divergence` load without torch.

    presets     parts and their weights, and the q/k/v pairs each relation part compares (no torch)
    weight_schedules  weights and TAID's share over steps (no torch)
    divergence  a divergence as a value: kind, alpha, temperature (no torch)
    relations   MiniLMv2 relations of q, k and v in linear memory
    attention   MiniLM v1 attention distributions
    formulas    the divergences, row by row, with their gradients
    logits      divergences and the LM loss from logits; sampled and top-k targets
    head        the same from hidden states and the LM heads, without either model's logits
    joint       the sampled KL and the LM loss in one pass
    hidden      hidden states, MSE or cosine
    positions   valid positions, and a few of them at a time in reused buffers
    scratch     the size of a chunk, reused buffers, fast exponentials
    kernels     fused forms for CUDA behind the same functions
"""
