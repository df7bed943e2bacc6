select
    faa as airport,
    name,
    tzone as time_zone
from {{ source('raw', 'airports') }}

union all

select
    airport,
    name,
    time_zone
from {{ ref('airports_not_in_source') }}
