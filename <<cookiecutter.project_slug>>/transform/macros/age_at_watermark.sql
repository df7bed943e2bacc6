{#- Source freshness is now minus the time this returns: so return now, less the age of the newest row on the
    day the data window (data.through in params.yaml) closes, New York time. -#}
{%- macro age_at_watermark(table) -%}
    select now() - greatest(
        interval 0 hours,
        timezone('America/New_York', strptime('{{ env_var("DATA_THROUGH") }}', '%Y-%m') + interval 1 month)
        - max(time_hour)
    )
    from read_parquet('../data/raw/{{ table }}/*.parquet')
{%- endmacro %}
