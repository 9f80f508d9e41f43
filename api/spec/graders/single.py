"""The graders that give a reward by themselves, alone or as a part of `multi`. A new grader is a file beside this one,
and a name in this union."""

from api.spec.graders.python import Python
from api.spec.graders.score_model import ScoreModel
from api.spec.graders.string_check import StringCheck
from api.spec.graders.text_similarity import TextSimilarity

SingleGrader = StringCheck | TextSimilarity | ScoreModel | Python
