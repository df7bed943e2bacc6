{{ config(
    materialized='external',
    location='../data/features/flights.parquet',
    format='parquet',
) }}

with flights as (
    select
        *,
        extract('hour' from scheduled_departure_local) as departure_hour_local,
        date_trunc('hour', scheduled_departure_at) as departure_hour_at
    from {{ ref('stg_flights') }}
),

-- The register has a few aircraft land twice in one minute: without max() the join below might take either.
outcomes as (
    select
        tailnum,
        landed_at,
        max(arrival_delay_minutes) as arrival_delay_minutes
    from {{ ref('stg_flights') }}
    where arrival_delay_minutes is not null
    group by tailnum, landed_at
),

last_leg as (
    select
        f.flight_id,
        outcomes.arrival_delay_minutes,
        outcomes.landed_at
    from flights as f
    asof inner join outcomes on f.tailnum = outcomes.tailnum and f.asked_at >= outcomes.landed_at
),

weather as (
    select
        f.flight_id,
        w.temperature_f,
        w.humidity_pct,
        w.wind_speed_mph,
        w.wind_gust_mph,
        w.precipitation_in,
        w.pressure_mbar,
        w.visibility_miles
    from flights as f
    asof inner join {{ ref('stg_weather') }} as w
        on f.origin = w.origin and f.asked_at >= w.observed_at
    -- Older than that, it says nothing about the weather.
    where w.observed_at >= f.asked_at - interval 6 hours
),

traffic as (
    select
        origin,
        departure_hour_at,
        count(*) as scheduled
    from flights
    group by origin, departure_hour_at
)

select
    f.flight_id,
    strftime(f.scheduled_departure_local, '%Y-%m') as month,
    f.scheduled_departure_at,
    f.asked_at,

    f.carrier,
    f.origin,
    f.dest,
    f.departure_hour_local::integer as departure_hour_local,
    extract('isodow' from f.scheduled_departure_local)::integer as day_of_week,
    f.distance_miles::integer as distance_miles,
    date_diff('minute', f.scheduled_departure_at, f.scheduled_arrival_at)::integer as scheduled_minutes,
    traffic.scheduled::integer as origin_departures_in_hour,

    planes.manufacturer as aircraft_manufacturer,
    planes.seats::integer as aircraft_seats,
    (year(f.scheduled_departure_local) - planes.built_year)::integer as aircraft_age_years,
    last_leg.arrival_delay_minutes::integer as aircraft_last_delay_minutes,
    date_diff('minute', last_leg.landed_at, f.asked_at)::integer as aircraft_minutes_since_landing,
    {{ rate('h.aircraft_1d_late', 'h.aircraft_1d_landed') }} as aircraft_late_rate_1d,

    {{ rate('h.carrier_7d_late', 'h.carrier_7d_landed') }} as carrier_late_rate_7d,
    {{ rate('h.carrier_origin_6h_late', 'h.carrier_origin_6h_landed') }} as carrier_origin_late_rate_6h,
    {{ rate('h.origin_3h_late', 'h.origin_3h_landed') }} as origin_late_rate_3h,
    {{ rate('h.dest_1d_late', 'h.dest_1d_landed') }} as dest_late_rate_1d,
    {{ rate('h.route_28d_late', 'h.route_28d_landed') }} as route_late_rate_28d,
    {{ rate('h.flight_28d_late', 'h.flight_28d_landed') }} as flight_late_rate_28d,

    weather.temperature_f,
    weather.humidity_pct,
    weather.wind_speed_mph,
    weather.wind_gust_mph,
    weather.precipitation_in,
    weather.pressure_mbar,
    weather.visibility_miles,

    f.is_late
from flights as f
inner join {{ ref('late_history') }} as h on f.flight_id = h.flight_id
inner join traffic on f.origin = traffic.origin and f.departure_hour_at = traffic.departure_hour_at
left join {{ ref('stg_planes') }} as planes on f.tailnum = planes.tailnum
left join last_leg on f.flight_id = last_leg.flight_id
left join weather on f.flight_id = weather.flight_id
order by f.scheduled_departure_at, f.flight_id
