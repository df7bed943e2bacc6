"""The OpenAPI description of the HTTP interface, with the features of the release that production serves."""

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

from .. import params

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .loader import Channel

_ID = {"type": "string", "description": "A UUID of version 7; that of a row among several ends in its position."}
_HEAD = {
    "prediction_id": _ID,
    "release": {"type": ["string", "null"]},
    "channel": {"type": ["string", "null"], "enum": ["production", "canary", None]},
    "generation": {"type": ["integer", "null"], "description": "Counts the moves of the channel."},
    "online": {"type": ["string", "null"], "description": "The online table that features were filled in from."},
}


def openapi_of(
    app: "FastAPI", production: "Channel | None", settings: params.Serving, key_column: str, with_token: bool
) -> dict[str, Any]:
    """Return the current OpenAPI document. `key_column`: the column that identifies a row."""
    release = production.release_id if production else "nothing"
    found = get_openapi(title=app.title, version=release, routes=app.routes)
    row = production.loaded.schema.as_json_schema(key_column) if production else {"type": "object"}
    key = {
        "type": ["string", "integer", "null"],
        "description": "Of whatever the prediction is about: requests with the same key go to the same channel. "
        "Without it, the first row's own key is it.",
    }
    rows = {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Row"},
        "minItems": 1,
        "maxItems": settings.max_rows,
    }
    found.setdefault("components", {}).setdefault("schemas", {}).update(
        {
            "Row": row,
            "One": _object({"row": {"$ref": "#/components/schemas/Row"}, "key": key}, ["row"]),
            "Many": _object({"rows": rows, "key": key}, ["rows"]),
            "Answer": _object(_HEAD | {"predictions": {"type": "array", "items": _prediction()}}),
            "Refusal": _object(_HEAD | {"errors": {"type": "array", "items": _problem()}}),
        }
    )
    found["paths"]["/predict"] = {"post": _predict()}
    if with_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required or list(properties),
        "additionalProperties": False,
    }


def _prediction() -> dict[str, Any]:
    return _object({"prediction_id": _ID, "score": {"type": "number"}})


def _problem() -> dict[str, Any]:
    row = {"type": ["integer", "null"], "description": "Counted from 0."}
    return _object({"row": row, "field": {"type": ["string", "null"]}, "reason": {"type": "string"}})


def _predict() -> dict[str, Any]:
    def body(*names: str) -> dict[str, Any]:
        schemas: list[dict[str, Any]] = [{"$ref": f"#/components/schemas/{name}"} for name in names]
        return {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas}}}

    refusals = {
        "401": "No token, or a wrong one",
        "403": "The request comes from a web page of another site",
        "413": "The body is too large",
        "415": "The Content-Type is not application/json",
        "421": "The Host is not a name of this server",
        "422": "The body does not fit the release's schema",
        "500": "The model failed",
        "503": "Nothing is served yet, or features are left out and there is no online table to fill them in from",
    }
    answer = {"description": "One prediction a row, in order", "content": body("Answer")}
    return {
        "summary": "Predict for one row or several",
        "operationId": "predict",
        "requestBody": {"required": True, "content": body("One", "Many")},
        "responses": {
            "200": answer,
            **{code: {"description": text, "content": body("Refusal")} for code, text in refusals.items()},
        },
    }
