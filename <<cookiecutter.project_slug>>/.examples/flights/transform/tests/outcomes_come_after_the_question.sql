-- A flight that had landed before the question was asked would be its own answer.
select flight_id
from {{ ref('stg_flights') }}
where landed_at <= asked_at
