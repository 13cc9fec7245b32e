"""Objectives: functions from a token's statistics to its loss, in nats. They add.

Each objective is one file of this room, which holds the function, its docstring and its record. Lists, help, the
documentation page and the tests of the laws are made from these files. ``python -m sftloss.objectives`` rewrites
the page and the imports for type checkers below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sftloss.objectives.candidates import context_candidates
from sftloss.objectives.description import Description, description, descriptions, published_losses
from sftloss.objectives.expression import objective
from sftloss.objectives.gem import gem_log_sigmoid
from sftloss.objectives.record import OBJECTIVES, Objective, ObjectiveRecord, in_listing_order
from sftloss.objectives.terms import (
    ObjectiveSum,
    Term,
    extras_of,
    objective_function,
    plug_in_names,
    sequence_values_of,
    stored_extras_of,
    with_known_extras,
)
from sftloss.registry import functions_with_records

if TYPE_CHECKING:
    # begin objectives (written by `python -m sftloss.objectives`)
    from sftloss.objectives.ael import ael as ael
    from sftloss.objectives.agce import agce as agce
    from sftloss.objectives.aul import aul as aul
    from sftloss.objectives.brier import brier as brier
    from sftloss.objectives.chord_phi import chord_phi as chord_phi
    from sftloss.objectives.cross_entropy import cross_entropy as cross_entropy
    from sftloss.objectives.dco import dco as dco
    from sftloss.objectives.deft import deft as deft
    from sftloss.objectives.dft import dft as dft
    from sftloss.objectives.dice import dice as dice
    from sftloss.objectives.distillation import distillation as distillation
    from sftloss.objectives.eaft import eaft as eaft
    from sftloss.objectives.eaft_top import eaft_top as eaft_top
    from sftloss.objectives.eksft import eksft as eksft
    from sftloss.objectives.entropy_bonus import entropy_bonus as entropy_bonus
    from sftloss.objectives.exponentiated_ce import exponentiated_ce as exponentiated_ce
    from sftloss.objectives.flsd import flsd as flsd
    from sftloss.objectives.focal import focal as focal
    from sftloss.objectives.gce import gce as gce
    from sftloss.objectives.gem import gem as gem
    from sftloss.objectives.gift import gift as gift
    from sftloss.objectives.gold import gold as gold
    from sftloss.objectives.huberised_ce import huberised_ce as huberised_ce
    from sftloss.objectives.idk import idk as idk
    from sftloss.objectives.infosft import infosft as infosft
    from sftloss.objectives.inverse_focal import inverse_focal as inverse_focal
    from sftloss.objectives.iw_sft import iw_sft as iw_sft
    from sftloss.objectives.iw_sft_sequence import iw_sft_sequence as iw_sft_sequence
    from sftloss.objectives.jensen_shannon import jensen_shannon as jensen_shannon
    from sftloss.objectives.k2_anchor import k2_anchor as k2_anchor
    from sftloss.objectives.k3_anchor import k3_anchor as k3_anchor
    from sftloss.objectives.kl_anchor import kl_anchor as kl_anchor
    from sftloss.objectives.label_relaxation import label_relaxation as label_relaxation
    from sftloss.objectives.label_smoothing import label_smoothing as label_smoothing
    from sftloss.objectives.loss_truncation import loss_truncation as loss_truncation
    from sftloss.objectives.luffy import luffy as luffy
    from sftloss.objectives.mile import mile as mile
    from sftloss.objectives.normalized_ce import normalized_ce as normalized_ce
    from sftloss.objectives.number_token import number_token as number_token
    from sftloss.objectives.pear import pear as pear
    from sftloss.objectives.poly_1 import poly_1 as poly_1
    from sftloss.objectives.prift import prift as prift
    from sftloss.objectives.prift_mass import prift_mass as prift_mass
    from sftloss.objectives.profit import profit as profit
    from sftloss.objectives.psft import psft as psft
    from sftloss.objectives.rank_tuner import rank_tuner as rank_tuner
    from sftloss.objectives.rho_1 import rho_1 as rho_1
    from sftloss.objectives.sed_sft import sed_sft as sed_sft
    from sftloss.objectives.spherical import spherical as spherical
    from sftloss.objectives.ss_token import ss_token as ss_token
    from sftloss.objectives.symmetric_ce import symmetric_ce as symmetric_ce
    from sftloss.objectives.tailr import tailr as tailr
    from sftloss.objectives.talr import talr as talr
    from sftloss.objectives.target_sft import target_sft as target_sft
    from sftloss.objectives.taylor_ce import taylor_ce as taylor_ce
    from sftloss.objectives.token_cleaning import token_cleaning as token_cleaning
    from sftloss.objectives.unlikelihood import unlikelihood as unlikelihood
    from sftloss.objectives.unlikelihood_context import unlikelihood_context as unlikelihood_context
    from sftloss.objectives.z_loss import z_loss as z_loss
    # end objectives

OBJECTIVES.update(in_listing_order(functions_with_records(__name__)))
globals().update(OBJECTIVES)  # in place of the modules of the same names

__all__ = [
    "OBJECTIVES",
    "Description",
    "Objective",
    "ObjectiveRecord",
    "ObjectiveSum",
    "Term",
    "context_candidates",
    "description",
    "descriptions",
    "extras_of",
    "gem_log_sigmoid",
    "objective_function",
    "objective",
    "plug_in_names",
    "published_losses",
    "sequence_values_of",
    "stored_extras_of",
    "with_known_extras",
]
__all__ += OBJECTIVES
__all__.sort()
