{#- A view in the scratch database on each raw table: unit tests and `dbt docs` learn its columns and types there. -#}
{%- macro sources_as_views() -%}
    {%- if execute -%}
        {%- for each in graph.sources.values() %}
    create schema if not exists {{ each.schema }};
    create or replace view {{ each.schema }}.{{ each.identifier }} as from {{ source(each.source_name, each.name) }};
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}
