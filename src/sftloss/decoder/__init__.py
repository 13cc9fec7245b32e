"""From a name or a loaded model to hidden states and a proved head."""

from __future__ import annotations

from sftloss.decoder.decoder import Decoder, open_decoder
from sftloss.decoder.loading import load_model

__all__ = ["Decoder", "load_model", "open_decoder"]
