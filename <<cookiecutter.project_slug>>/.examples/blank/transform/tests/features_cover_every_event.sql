-- The joins neither lose nor repeat an event.
select count(*) as events
from {{ ref('stg_events') }}
having events <> (select count(*) from {{ ref('events') }})
