"""Hold OpenLineage events against the official client's classes of the published schemas.

    python openlineage_check.py FILE

In a generated project's environment. Fails at the first event or facet that lacks a field that
its schema asks for, has one that it does not know, or has a value of another type; prints what
it has seen.
"""

import importlib
import inspect
import json
import pkgutil
import sys
import types
import typing

import attr
from openlineage.client import generated

classes = {}
for module in pkgutil.iter_modules(generated.__path__):
    found = importlib.import_module(f"{generated.__name__}.{module.name}")
    for each in vars(found).values():
        if inspect.isclass(each) and attr.has(each) and each.__module__ == found.__name__:
            classes.setdefault(module.name, {})[each.__name__] = each


def fits(value, hint, where):
    """Assert that a value is what a type hint says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return
    if origin in (typing.Union, types.UnionType):
        inner = [each for each in inner if each is not type(None)]
        assert value is not None, f"{where} is null"
        return fits(value, inner[0], where) if len(inner) == 1 else None
    if origin is list:
        assert isinstance(value, list), f"{where} is no list"
        return [fits(each, inner[0], f"{where}[{n}]") for n, each in enumerate(value)]
    if origin is dict:
        assert isinstance(value, dict), f"{where} is no object"
        return [fits(each, inner[1], f"{where}.{name}") for name, each in value.items()]
    if attr.has(hint):
        return is_a(value, hint, where)
    if inspect.isclass(hint) and issubclass(hint, str):
        assert isinstance(value, str), f"{where} is no text"
    elif hint in (int, float, bool):
        assert isinstance(value, (int, float)), f"{where} is no {hint.__name__}"


def is_a(value, cls, where):
    """Assert that an object has the fields of a class; a facet, of that of its own schema."""
    if "_schemaURL" in value:
        name = value["_schemaURL"].rsplit("/", 1)[-1]
        cls = next(found[name] for found in classes.values() if name in found)
        assert cls._get_schema() == value["_schemaURL"], f"{where}: {value['_schemaURL']}"
        assert value["_producer"].startswith("https://"), where
        print("facet", name)
    names = vars(sys.modules[cls.__module__]) | vars(typing)
    hints = typing.get_type_hints(cls, names, names)
    known = {field.name: field for field in attr.fields(cls)}
    for name, each in value.items():
        if name in ("_producer", "_schemaURL", "schemaURL"):
            continue
        assert name in known, f"{where} has {name}, which {cls.__name__} does not"
        fits(each, hints[name], f"{where}.{name}")
        if known[name].validator:
            known[name].validator(None, known[name], each)
    for name, field in known.items():
        needed = field.default is attr.NOTHING
        assert not needed or name in value, f"{where} lacks {name}, which {cls.__name__} needs"


for line in open(sys.argv[1]):
    event = json.loads(line)
    assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent"), event["schemaURL"]
    is_a(event, classes["base"]["RunEvent"], "event")
    print("event", event["job"]["name"], event["eventType"])
