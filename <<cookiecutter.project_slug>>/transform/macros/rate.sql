{#- A share of two whole numbers, so that its bytes do not depend on the order of summing; null where nothing
    was counted. -#}
{%- macro rate(part, whole) -%}
    {{ part }}::double / nullif({{ whole }}, 0)
{%- endmacro %}
