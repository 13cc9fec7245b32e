"""The tutorial's analyzer: how losses and gradients of raw sequences go with their length.

For looking at a handful of tensors in a notebook. For a data set and a model use ``sftloss.analyze``.

One example is one observation, and its length T is the number of *targets* (a sequence of n tokens has n - 1), so
that noise shows no trend with length. What cannot be computed is None and has a reason. Nothing is printed
unless asked for, nothing is ranked: a loss that divides by T is not better for having no correlation with T.
"""

from __future__ import annotations

from sftloss.sequences._analyzer import LossFunctionAnalyzer
from sftloss.sequences._generated import comprehensive_loss_analysis, generate_test_data
from sftloss.sequences._summary import summary

__all__ = ["LossFunctionAnalyzer", "comprehensive_loss_analysis", "generate_test_data", "summary"]
