{#- Values below `min_value` or above `max_value`; null passes (that is not_null's to say). -#}
{% test within(model, column_name, min_value, max_value) %}
select {{ column_name }}
from {{ model }}
where {{ column_name }} < {{ min_value }} or {{ column_name }} > {{ max_value }}
{% endtest %}

{#- More rows with a null than `share` allows. -#}
{% test null_share_at_most(model, column_name, share) %}
select *
from (
    select avg(({{ column_name }} is null)::integer) as null_share
    from {{ model }}
)
where null_share > {{ share }}
{% endtest %}
