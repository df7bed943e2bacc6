-- New York's clock at the instant of departure must read what the timetable says, summer and winter.
select flight_id
from {{ ref('stg_flights') }}
where
    scheduled_departure_local
    <> timezone('America/New_York', timezone('UTC', scheduled_departure_at))
