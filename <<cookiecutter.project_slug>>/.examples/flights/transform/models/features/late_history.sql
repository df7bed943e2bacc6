{% set histories = [
    ('carrier_7d', ['carrier'], '7 days'),
    ('carrier_origin_6h', ['carrier', 'origin'], '6 hours'),
    ('origin_3h', ['origin'], '3 hours'),
    ('dest_1d', ['dest'], '1 day'),
    ('route_28d', ['origin', 'dest'], '28 days'),
    ('flight_28d', ['carrier', 'flight', 'origin'], '28 days'),
    ('aircraft_1d', ['tailnum'], '1 day'),
] %}

with
{% for name, keys, window in histories %}
    {{ name }} as (
        {{ late_history(keys, window) }}
    ){{ ',' if not loop.last }}
{% endfor %}

select
    {% for name, _, _ in histories %}
        {{ name }}.landed::integer as {{ name }}_landed,
        {{ name }}.late::integer as {{ name }}_late,
    {% endfor %}
    f.flight_id
from {{ ref('stg_flights') }} as f
{% for name, _, _ in histories %}
    inner join {{ name }} on f.flight_id = {{ name }}.flight_id
{% endfor %}
