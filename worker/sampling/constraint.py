"""Answers that must follow a grammar: llguidance computes which tokens may come next, and the sampler draws among
those."""

from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from tokenizers import Tokenizer

from api.spec.fields import JsonObject
from api.spec.response_format import JsonObjectFormat, JsonSchema, JsonSchemaFormat, ResponseFormat, text_rules
from api.spec.sampling import SamplingRequest
from api.spec.tools import enforced_schemas
from worker.sampling.call_form import CallForm
from worker.sampling.calls import call_grammar
from worker.sampling.refused import RequestRefused
from worker.sampling.token_bytes import TokenBytes

WHITESPACE = r"( |\n {0,16})?"
"""White space between the parts of a JSON value. Its length is bounded, because some models would write nothing
else."""
LIMITS = LLParserLimits(verbose_errors=False)
"""llguidance's own limits on the cost of a grammar and of each token."""

_MARK = "\x02"
"""A character that no tokenizer joins with others into one token."""


class GrammarRefused(RequestRefused):
    """The grammar is invalid, cannot be satisfied, or costs too much."""

    def __init__(self, message: str, param: str, path: str | None = None) -> None:
        reason = " ".join(message.replace("<non-verbose/>", "").split())[:300]
        super().__init__(
            f"{path or param}: cannot be enforced on answers: {reason}", param=param, code="invalid_schema"
        )


class GrammarConstraint:
    """A grammar, and the position in it that one answer has reached."""

    def __init__(self, matcher: LLMatcher, param: str) -> None:
        self._matcher, self._param = matcher, param
        self._check()

    def limit(self, logits_V: torch.Tensor) -> torch.Tensor:
        """Return the logits with -inf for tokens that may not come next. Raises GrammarRefused if llguidance reports an
        error."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = torch.from_numpy(np.unpackbits(bits, count=len(logits_V), bitorder="little")).bool()
        return logits_V.masked_fill(~allowed_V.to(logits_V.device), -torch.inf)

    def accept(self, token_id: int) -> None:
        """Advance by the drawn token. Raises GrammarRefused if llguidance reports an error."""
        self._matcher.consume_token(token_id)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether only an end token may follow."""
        return bool(self._matcher.is_stopped())

    def copy(self) -> "GrammarConstraint":
        """Return a copy at the same position, for another answer."""
        return GrammarConstraint(self._matcher.deep_copy(), self._param)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarRefused(self._matcher.get_error(), self._param)


class Grammars:
    """Makes constraints for the tokens of one base model."""

    def __init__(
        self, tokenizer: Tokenizer, token_bytes: TokenBytes, vocabulary: int, end_tokens: Collection[int]
    ) -> None:
        self._tokenizer, self._bytes = tokenizer, token_bytes
        self._vocabulary = vocabulary
        self._end_tokens = sorted(end_tokens) or [vocabulary - 1]  # llguidance needs one

    def of_request(self, request: SamplingRequest, form: CallForm | None) -> GrammarConstraint | None:
        """Return the constraint of the request's answers; None if every text is allowed. `form`: the form in which
        answers call the request's tools; None: no tools are offered. Raises GrammarRefused, which names the `pattern`
        or `format` that is the cause, if one is."""
        try:
            return self._of_request(request, form)
        except GrammarRefused as refused:
            raise _find_cause(request) or refused from None

    def _of_request(self, request: SamplingRequest, form: CallForm | None) -> GrammarConstraint | None:
        schema = _schema(request.response_format)
        if form is None:
            return None if schema is None else self.of_schema(schema)
        try:
            grammar = call_grammar(
                form,
                request.tools,
                request.tool_choice,
                parallel=request.parallel_tool_calls,
                answer=schema,
                specials=self._specials,
                options={"whitespace_pattern": WHITESPACE},
            )
        except ValueError as error:
            raise GrammarRefused(str(error), "tools") from None
        return None if grammar is None else self.of(grammar, "tools")

    def of_schema(self, schema: JsonObject) -> GrammarConstraint:
        """Return the constraint of an answer that is JSON and valid for the schema. Raises GrammarRefused."""
        param = "response_format"
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": WHITESPACE})
        except ValueError as error:  # a number that is too large
            raise GrammarRefused(str(error), param) from None
        return self.of(grammar, param)

    def of(self, grammar: str, param: str) -> GrammarConstraint:
        """Return the constraint of a grammar in one of llguidance's formats. `param`: the field of the request from
        which the grammar comes. Raises GrammarRefused."""
        return GrammarConstraint(LLMatcher(self._llguidance, grammar, limits=LIMITS, log_level=0), param)

    @cached_property
    def _specials(self) -> dict[str, int]:
        """The ids of the special tokens by their texts."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {token.content: number for number, token in added if token.special}

    @cached_property
    def _llguidance(self) -> LLTokenizer:
        """The model's tokens in llguidance's form. Made with the first grammar, because it takes up to a second."""
        return LLTokenizer(TokenizerWrapper(_Tokens(self)), n_vocab=self._vocabulary, eos_token=self._end_tokens)


class _Tokens:
    """The tokens in the form that llguidance's TokenizerWrapper takes."""

    bos_token_id = None

    def __init__(self, grammars: Grammars) -> None:
        self._tokenizer = grammars._tokenizer
        self.tokens = [grammars._bytes.of(number) for number in range(grammars._vocabulary)]
        self.special_token_ids = list(grammars._specials.values())
        self.eos_token_id = grammars._end_tokens[0]

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of a text as they are after another text. At the start, some tokenizers add a space."""
        before = self._tokenizer.encode(_MARK, add_special_tokens=False).ids
        tokens = self._tokenizer.encode(_MARK + text, add_special_tokens=False).ids
        return list(tokens[len(before) :])


def _schema(shape: ResponseFormat | None) -> JsonObject | None:
    match shape:
        case JsonObjectFormat():
            return {"type": "object"}
        case JsonSchemaFormat(json_schema=JsonSchema(schema_=schema)):
            return schema
    return None


def _find_cause(request: SamplingRequest) -> GrammarRefused | None:
    """Return an error for the first `pattern` or `format` in the request's schemas that llguidance refuses even alone;
    None if it refuses none."""
    for param, place, schema in _enforced(request):
        for path, rule in text_rules(schema):
            grammar = LLMatcher.grammar_from_json_schema(rule)
            is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
            if is_error:
                return GrammarRefused(messages[0], param, f"{place}.{path}")
    return None


def _enforced(request: SamplingRequest) -> Iterator[tuple[str, str, JsonObject]]:
    """Yield (field of the request, path, schema) of each schema that the request's answers must follow."""
    if isinstance(request.response_format, JsonSchemaFormat):
        param = "response_format"
        yield param, f"{param}.json_schema.schema", request.response_format.json_schema.schema_
    for path, schema in enforced_schemas(request.tools, request.tool_choice):
        yield "tools", path, schema
