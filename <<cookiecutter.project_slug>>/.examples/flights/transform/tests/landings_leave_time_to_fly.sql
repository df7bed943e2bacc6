-- A flight that lands before its time in the air is over was put on the wrong clock: its outcome would be known
-- too early.
select flight_id
from {{ ref('stg_flights') }}
where landed_at < departed_at + to_minutes(air_minutes)
