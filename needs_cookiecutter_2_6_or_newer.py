"""Check the answers, and tell the hooks where the template is.

Cookiecutter loads this file as a Jinja extension. Its name is the message that a cookiecutter
too old to load it prints.
"""

import json
import keyword
import re
import sys
from pathlib import Path

from cookiecutter.exceptions import FailedHookException
from jinja2.ext import Extension

TEMPLATE = Path(__file__).resolve().parent
STARTED_IN = Path.cwd()  # cookiecutter changes it before it runs the hooks
# Filled in by `git archive`, so that a zip file of the template knows its commit.
COMMIT = "$Format:%H$"

FREE_TEXT = {"project_name": 60, "description": 300, "author_name": 100}
LONGEST_NAME = 30
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
EMAIL = re.compile(r"[\w%+'-]+(\.[\w%+'-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
MARKS = ("<<", ">>", "<%", "%>", "<#", "#>")
# U+200C and U+200D do not print, but join letters and emoji in correct text.
JOINERS = "\u200c\u200d"
# Names that mean something else already: to the packages and tools of the project, its
# own files, dbt, YAML or Windows.
TAKEN = frozenset((TEMPLATE / "taken_names.txt").read_text().split())


class Refused(FailedHookException):
    """An answer that is not accepted; cookiecutter prints this sentence and ends."""

    def __init__(self, sentence):
        super().__init__(f"Refused: {sentence}")


def check_text(key, answer, longest):
    """Accept one printable line that the files of the project can quote."""
    if not answer.strip():
        raise Refused(f"{key} must not be empty.")
    if len(answer) > longest:
        raise Refused(f"{key} must be at most {longest} characters long, not {len(answer)}.")
    for character in answer:
        if not character.isprintable() and character not in JOINERS:
            raise Refused(
                f"{key} must be one line of printable text: "
                f"U+{ord(character):04X} is not accepted in {shown(answer)}."
            )
    if answer != answer.strip():
        raise Refused(f"{key} must not start or end with a space: {shown(answer)}.")
    if not any(character.isalnum() for character in answer):
        raise Refused(f"{key} must hold a letter or a digit: {shown(answer)}.")


def check_marks(key, *texts):
    """Refuse the marks of the template, also where they were rendered away."""
    for mark in MARKS:
        if any(mark in text for text in texts):
            raise Refused(f"{key} must not hold any of {' '.join(MARKS)}, which mark templates.")


def check_slug(slug):
    """Accept a name that works as folder, command and module, and hides no other."""
    if len(slug) > LONGEST_NAME or not SLUG.fullmatch(slug):
        raise Refused(
            f"project_slug must be 1 to {LONGEST_NAME} lower-case ASCII letters, digits and single "
            f"hyphens, starting with a letter, like flight-delays: {shown(slug)} is not."
        )
    module = slug.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in TAKEN:
        raise Refused(
            f"project_slug must not be {shown(slug)}, a name that Python, dbt, YAML, Windows, or a "
            "package or file of the project uses already: take one like flight-delays."
        )


def check_derived(answers):
    """Refuse a replay file whose answers were edited but not what follows from them."""
    derived = {"project_slug": answers["__answered_slug"]}
    for key in ("project_name", "description"):
        derived[key] = re.sub(r"\\(.)", r"\1", answers[f"__{key}_md"])
    for key in (*FREE_TEXT, "author_email"):
        if answers[f"__{key}_json"] != json.dumps(answers[key], ensure_ascii=False):
            derived[key] = None
    for key, text in derived.items():
        if answers[key] != text:
            raise Refused(
                f"{key} differs from what this replay file derived from it: "
                "pass changed answers on the command line instead."
            )


def shown(answer):
    """Quote an answer for a message, in ASCII and not too long."""
    return json.dumps(answer if len(answer) <= 60 else answer[:57] + "...")


def check(answers, given=None):
    """Raise Refused for the first answer that is not accepted; else return nothing to render."""
    given = given or {}
    for key in (*FREE_TEXT, "project_slug", "author_email"):
        if not isinstance(answers[key], str):
            raise Refused(f"{key} must be text.")
    for key, longest in FREE_TEXT.items():
        check_text(key, answers[key], longest)
        check_marks(key, answers[key], str(given.get(key, "")))
    if '"' in answers["project_name"] or "\\" in answers["project_name"]:
        raise Refused("project_name must not hold double quotes or backslashes.")
    check_marks("author_email", str(given.get("author_email", "")))
    if len(answers["author_email"]) > 254 or not EMAIL.fullmatch(answers["author_email"]):
        raise Refused(
            f"author_email must be an address like you@example.com: "
            f"{shown(answers['author_email'])} is not."
        )
    check_slug(answers["__answered_slug"])
    check_derived(answers)
    return ""


def template_texts():
    """The texts of the template itself that cookiecutter renders without a file name."""

    def strings(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for each in value.values() if isinstance(value, dict) else value:
                yield from strings(each)

    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))
    del questions["_jinja2_env_vars"]  # the bare marks, which an answer must not be
    hooks = (path.read_text(encoding="utf-8") for path in TEMPLATE.glob("hooks/*.py"))
    return frozenset([*strings(questions), *hooks])


class Answers(Extension):
    """Refuse answers before cookiecutter renders them, and before it makes a folder."""

    texts = template_texts()

    def __init__(self, environment):
        super().__init__(environment)
        environment.globals |= {
            "check_answers": check,
            "template": {
                "folder": str(Path.cwd()),  # where hooks are rendered
                "started_in": str(STARTED_IN),
                "commit": None if COMMIT.startswith("$") else COMMIT,
            },
        }

    def preprocess(self, source, name, filename=None):
        """Refuse an answer that Jinja would read as a template."""
        if name is None and source not in self.texts:
            # Names of files and folders are rendered too.
            check_marks(shown(source), re.sub(r"<<cookiecutter\.\w+>>", "", source))
        return source
