"""A forward pass of one stack of an encoder-decoder model, without its LM head."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def encode(
    model: PreTrainedModel,
    attention_mask: torch.Tensor,
    *,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the encoder's output after its final norm, (batch, L_in, d_model).

    Give either input_ids or inputs_embeds.
    """
    encoder = model.get_encoder()
    return encoder(
        input_ids=input_ids, inputs_embeds=inputs_embeds, attention_mask=attention_mask
    ).last_hidden_state


def decode(
    model: PreTrainedModel,
    encoder_output: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    decoder_input_ids: torch.Tensor | None = None,
    decoder_inputs_embeds: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the decoder's output after its final norm, (batch, L_out, d_model).

    attention_mask: (batch, L_in), the mask of the encoder's input. Padding at the end of the
    decoder's own input needs no mask: no earlier position sees it.
    """
    decoder = model.get_decoder()
    output = decoder(
        input_ids=decoder_input_ids,
        inputs_embeds=decoder_inputs_embeds,
        encoder_hidden_states=encoder_output,
        encoder_attention_mask=attention_mask,
        use_cache=False,
    )
    return output.last_hidden_state
