{#- Source freshness is now minus the time this returns: so return now, less the age of the newest row when the data
    window (data.through in params.yaml) closes on the clock of `zone`. -#}
{%- macro age_at_watermark(table, time, zone='UTC') -%}
    select now() - greatest(
        interval 0 hours,
        timezone('{{ zone }}', strptime('{{ env_var("DATA_THROUGH") }}', '%Y-%m') + interval 1 month) - max({{ time }})
    )
    from read_parquet('../data/raw/{{ table }}/*.parquet')
{%- endmacro %}
