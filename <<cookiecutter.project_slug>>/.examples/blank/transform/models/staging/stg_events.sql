-- TODO: your table, each column under the name and of the type that features want.
select
    id as event_id,
    happened_at at time zone 'UTC' as asked_at,
    -- TODO: from when on an outcome is known. No feature of an earlier question may use it.
    (happened_at at time zone 'UTC') + interval 1 day as known_at,
    kind,
    value,
    outcome = 1 as outcome
from {{ source('raw', 'events') }}
