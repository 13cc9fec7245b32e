"""From a name or a loaded model to hidden states and a proved head, for any framework's decoder by way of a port."""

from __future__ import annotations

from sftloss.decoder.decoder import Decoder, open_decoder
from sftloss.decoder.loading import load_model, with_fast_dtype
from sftloss.decoder.port import HeadForm, LossOutput, ModelPass, ModelPort, PlainPort
from sftloss.decoder.ports import port_of, register_port

__all__ = [
    "Decoder",
    "HeadForm",
    "LossOutput",
    "ModelPass",
    "ModelPort",
    "PlainPort",
    "load_model",
    "open_decoder",
    "port_of",
    "register_port",
    "with_fast_dtype",
]
