"""What a student is taught, as pure tensor functions: no I/O, no deepspeed, no transformers.

Import from the submodules; this file stays empty so that `presets` and `schedules` load without torch.

    presets     which parts with which weights, and which q/k/v pairs each relation part compares (no torch)
    schedules   weights and TAID's share over steps (no torch)
    relations   MiniLMv2 relations of q, k and v in linear memory
    attention   MiniLM v1 attention distributions
    formulas    the divergences, row by row, with their gradients
    logits      divergences and the LM loss from logits; sampled and top-k targets
    head        the same from hidden states and the LM heads, without either model's logits
    hidden      hidden states, MSE or cosine
"""
