{{ config(materialized='table') }}

{#- Suffixes name the clock: `_at` is an instant in UTC, `_local` a reading of the clock at the airport named. -#}

with flights as (
    select
        f.*,
        make_timestamp(f.year, f.month, f.day, f.hour, f.minute, 0) as scheduled_departure_local,
        (f.time_hour at time zone 'UTC') + to_minutes(f.minute) as scheduled_departure_at,
        a.time_zone as dest_time_zone
    from {{ source('raw', 'flights') }} as f
    left join {{ ref('stg_airports') }} as a on f.dest = a.airport
),

departed as (
    select
        *,
        scheduled_departure_at + to_minutes(dep_delay) as departed_at
    from flights
)

select
    printf(
        '%s-%d-%s-%s', carrier, flight, origin, strftime(scheduled_departure_at, '%Y%m%dT%H%M')
    ) as flight_id,
    carrier,
    flight,
    tailnum,
    origin,
    dest,
    distance as distance_miles,
    scheduled_departure_local,
    scheduled_departure_at,
    -- The question is asked two hours before the scheduled departure: nothing later may be known.
    scheduled_departure_at - interval 2 hours as asked_at,
    {{ next_reading_of_clock(
        'scheduled_departure_at', 'sched_arr_time', 'dest_time_zone'
    ) }} as scheduled_arrival_at,
    departed_at,
    air_time as air_minutes,
    {{ next_reading_of_clock('departed_at', 'arr_time', 'dest_time_zone') }} as landed_at,
    arr_delay as arrival_delay_minutes,
    -- Null for a flight that was cancelled or diverted: it has no arrival to be late.
    arr_delay > {{ var('late_after_minutes') }} as is_late
from departed
