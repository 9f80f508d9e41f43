"""The data of an eval (`data_source_config`): the schema of its items."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from api.spec.evals.item_schema import validator
from api.spec.fields import FreeJson, JsonObject, StrictModel

SAMPLE_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {"output_text": {"type": "string"}, "output_json": {}},
    "required": ["output_text"],
}
"""JSON Schema of `sample`, from which the templates of criteria take the answer."""


def _checked(schema: JsonObject) -> JsonObject:
    validator(schema)
    return schema


def _custom_only(config: object) -> object:
    kind = config.get("type") if isinstance(config, dict) else None
    if kind in ("logs", "stored_completions"):
        raise ValueError(
            f"'{kind}' is not supported, because this server keeps no answers of models: use 'custom' with an "
            "item_schema, and give the rows to the run, as a file or as content"
        )
    return config


class CustomDataSource(StrictModel):
    type: Literal["custom"]
    item_schema: Annotated[FreeJson, AfterValidator(_checked)]
    """JSON Schema of each `item`. References to other documents are refused."""
    include_sample_schema: bool = False
    """Whether the criteria grade an answer, which their templates name as `{{ sample.output_text }}`. The run samples
    the answers, or its rows contain them."""

    def echo(self) -> JsonObject:
        """Return the object in the form of responses. Its `schema` describes an object with `item` and, with
        `include_sample_schema`, `sample`."""
        properties: JsonObject = {"item": self.item_schema}
        if self.include_sample_schema:
            properties["sample"] = SAMPLE_SCHEMA
        return {"type": "custom", "schema": {"type": "object", "properties": properties, "required": [*properties]}}


DataSourceConfig = Annotated[CustomDataSource, BeforeValidator(_custom_only)]
