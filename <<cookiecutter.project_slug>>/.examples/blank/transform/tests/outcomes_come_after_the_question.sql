-- An outcome that was known before the question was asked would be its own answer.
select event_id
from {{ ref('stg_events') }}
where known_at <= asked_at
