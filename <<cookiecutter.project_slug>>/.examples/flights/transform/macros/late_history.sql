{#- Of the flights that share `keys` with a flight and landed in the `window` before it was asked about: how many
    there were, and how many of them were late. Counts run along the moments at which outcomes became known
    (`landed_at`); what was known when the question was asked, less what was known when the window began, is what
    the window holds. So no row can see its own or a later outcome. -#}
{%- macro late_history(keys, window) -%}
    with known as (
        select
            {{ keys | join(', ') }},
            landed_at,
            count(*) over so_far as landed,
            sum(is_late::integer) over so_far as late
        from {{ ref('stg_flights') }}
        where is_late is not null
        window so_far as (partition by {{ keys | join(', ') }} order by landed_at)
    )

    select
        f.flight_id,
        coalesce(until.landed, 0) - coalesce(before.landed, 0) as landed,
        coalesce(until.late, 0) - coalesce(before.late, 0) as late
    from {{ ref('stg_flights') }} as f
    asof left join known as until
        on {% for key in keys %}f.{{ key }} = until.{{ key }} and {% endfor %}f.asked_at >= until.landed_at
    asof left join known as before
        on {% for key in keys %}f.{{ key }} = before.{{ key }} and {% endfor %}f.asked_at - interval {{ window }} > before.landed_at
{%- endmacro %}
