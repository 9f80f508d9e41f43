"""The graders that give a reward by themselves, or as parts of `multi`. To add one, add a file here and a name to this
union."""

from api.spec.graders.label_model import LabelModel
from api.spec.graders.python import Python
from api.spec.graders.score_model import ScoreModel
from api.spec.graders.string_check import StringCheck
from api.spec.graders.text_similarity import TextSimilarity

SingleGrader = StringCheck | TextSimilarity | ScoreModel | LabelModel | Python
