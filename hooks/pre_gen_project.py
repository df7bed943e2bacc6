"""Check the answers of a replay file, which cookiecutter does not render.

Other answers were checked before. An older cookiecutter does not render this hook either.
"""

NOT_RENDERED = r"""<< check_answers(cookiecutter, _cookiecutter | default({})) >>"""

if NOT_RENDERED:
    raise SystemExit("This template needs cookiecutter 2.6 or newer.")
