"""A report in another language: a catalogue of English sentences, applied where a document is finished."""

from sftloss.report.language.catalogue import Catalogue, catalogue, translated
from sftloss.report.language.document import Text, in_language, texts_of

__all__ = ["Catalogue", "Text", "catalogue", "in_language", "texts_of", "translated"]
