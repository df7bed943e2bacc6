{{ config(
    materialized='external',
    location='../data/features/events.parquet',
    format='parquet',
) }}

-- Counts along the moments at which outcomes became known: what was known when the question was asked, less what was
-- known 30 days before, is what the 30 days hold. So no row can see its own or a later outcome.
with known as (
    select
        kind,
        known_at,
        count(*) over so_far as ended,
        sum(outcome::integer) over so_far as positive
    from {{ ref('stg_events') }}
    where outcome is not null
    window so_far as (partition by kind order by known_at)
)

-- TODO: your features; features.yml says of which types. None may use what came after asked_at.
select
    e.event_id,
    strftime(e.asked_at, '%Y-%m') as month,
    e.asked_at,
    e.kind,
    e.value,
    extract('hour' from e.asked_at)::integer as hour_of_day,
    {{ rate(
        '(coalesce(until.positive, 0) - coalesce(before.positive, 0))',
        '(coalesce(until.ended, 0) - coalesce(before.ended, 0))'
    ) }} as kind_rate_30d,
    e.outcome
from {{ ref('stg_events') }} as e
asof left join known as until on e.kind = until.kind and e.asked_at >= until.known_at
asof left join known as before on e.kind = before.kind and e.asked_at - interval 30 days > before.known_at
order by e.asked_at, e.event_id
