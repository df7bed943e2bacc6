-- The joins neither lose nor repeat a flight.
select count(*) as flights
from {{ ref('stg_flights') }}
having flights <> (select count(*) from {{ ref('flights') }})
