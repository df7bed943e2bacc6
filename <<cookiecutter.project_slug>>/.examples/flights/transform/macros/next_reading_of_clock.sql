{#- The first instant (UTC) after `instant` at which a clock in `time_zone` reads `hhmm` (an integer: 1545 is a
    quarter to four; 2400 is midnight). The source gives arrivals as such readings, without a date. Of the hour that
    a clock shows twice in autumn the second is taken: an outcome may count an hour late, but never early. -#}
{%- macro next_reading_of_clock(instant, hhmm, time_zone) -%}
    {%- set local = "timezone(" ~ time_zone ~ ", timezone('UTC', " ~ instant ~ "))" -%}
    {%- set same_day = "date_trunc('day', " ~ local ~ ") + to_minutes((" ~ hhmm ~ " // 100) * 60 + " ~ hhmm ~ " % 100)" -%}
    timezone('UTC', timezone({{ time_zone }}, case
        when {{ same_day }} <= {{ local }} then {{ same_day }} + interval 1 day
        else {{ same_day }}
    end))
{%- endmacro %}
