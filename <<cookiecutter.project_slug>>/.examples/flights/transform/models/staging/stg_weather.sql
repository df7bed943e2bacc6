select
    origin,
    time_hour at time zone 'UTC' as hour_at,
    -- An hour's observation is certainly published when that hour is over.
    (time_hour at time zone 'UTC') + interval 1 hour as observed_at,
    temp as temperature_f,
    humid as humidity_pct,
    -- One reading of 1,048 mph stands in the source: no wind at an airport exceeds 200.
    case when wind_speed <= 200 then wind_speed end as wind_speed_mph,
    wind_gust as wind_gust_mph,
    precip as precipitation_in,
    pressure as pressure_mbar,
    visib as visibility_miles
from {{ source('raw', 'weather') }}
